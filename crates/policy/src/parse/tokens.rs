//! From text to tokens, with the one form that sqlparser does not know put in another way.

use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::keywords::Keyword;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Word};

static DIALECT: PostgreSqlDialect = PostgreSqlDialect {};

/// A parser at the beginning of a text.
pub(super) fn parser(text: &str) -> Result<Parser<'static>, String> {
    let mut tokens =
        Tokenizer::new(&DIALECT, text).tokenize_with_location().map_err(|error| error.to_string())?;
    tokens.retain(|token| !matches!(token.token, Token::Whitespace(_)));
    rename_trims(&mut tokens);
    Ok(Parser::new(&DIALECT).with_tokens_with_locations(tokens))
}

/// `TRIM(BOTH FROM x)`, as PostgreSQL prints `trim(x)`, becomes `btrim(x)`.
fn rename_trims(tokens: &mut Vec<TokenWithSpan>) {
    let keyword = |token: &TokenWithSpan| match &token.token {
        Token::Word(word) if word.quote_style.is_none() => word.keyword,
        _ => Keyword::NoKeyword,
    };
    let mut at = 0;
    while at + 3 < tokens.len() {
        let trims = keyword(&tokens[at]) == Keyword::TRIM
            && tokens[at + 1].token == Token::LParen
            && keyword(&tokens[at + 3]) == Keyword::FROM;
        let name = match keyword(&tokens[at + 2]) {
            Keyword::BOTH => "btrim",
            Keyword::LEADING => "ltrim",
            Keyword::TRAILING => "rtrim",
            _ => "",
        };
        if trims && !name.is_empty() {
            tokens[at].token =
                Token::Word(Word { value: name.to_owned(), quote_style: None, keyword: Keyword::NoKeyword });
            tokens.drain(at + 2..at + 4);
        }
        at += 1;
    }
}
