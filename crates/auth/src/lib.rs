//! JSON Web Tokens, key sets, and the claims they carry.
