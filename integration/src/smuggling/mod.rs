//! A corpus of malformed and border-case HTTP/1 messages, sent through Fairway, HAProxy and nginx to an endpoint that
//! records the bytes that arrive.
//!
//! Reading order:
//! - [`escapes`]: how bytes are written in a corpus, and shown to people.
//! - [`cases`]: the two files, `corpus/http1.txt` (requests) and `corpus/http1_answers.txt` (answers of endpoints).
//! - [`strict`]: requests and answers, read as strictly as RFC 9112 allows; [`chunks`]: their bodies in chunks; [`strict_fields`]: their lines
//!   and fields.
//! - [`recorder`]: the endpoint.
//! - [`corpus_proxies`]: who stands before it.
//! - [`exchange`]: one case through one proxy, and what was seen of it.
//! - [`verdicts`]: what may be seen.
//! - [`run`]: all cases through all proxies.
//! - [`page`]: where they differ, as a page in Markdown.
//!
//! What is well-formed is decided here and not by Fairway's own parser: a mistake of that one would not be seen by itself.

pub mod cases;
pub mod chunks;
pub mod corpus_proxies;
pub mod escapes;
pub mod exchange;
pub mod page;
pub mod recorder;
pub mod run;
pub mod strict;
pub mod strict_fields;
pub mod verdicts;
