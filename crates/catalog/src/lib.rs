//! What PostgreSQL says of itself: tables, types, publications, grants, policies; the one crate that speaks SQL.
