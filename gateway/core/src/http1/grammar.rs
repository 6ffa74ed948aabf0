//! Which octets may stand where (RFC 9110, section 5.6; RFC 9112, sections 2 and 3).

/// What an octet is in a token.
const NO_TOKEN: u8 = 0;
const PLAIN: u8 = 1;
const ODD: u8 = 2;

/// For each octet: whether it may be in a token, and whether it is no letter, no digit and no hyphen there.
static TOKEN: [u8; 256] = token_table();

const fn token_table() -> [u8; 256] {
    let mut table = [NO_TOKEN; 256];
    let mut octet = 0;
    while octet < 256 {
        let it = octet as u8;
        table[octet] = match it {
            b'-' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => PLAIN,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'.' | b'^' | b'_' | b'`'
            | b'|' | b'~' => ODD,
            _ => NO_TOKEN,
        };
        octet += 1;
    }
    table
}

fn class(octet: u8) -> u8 {
    // The table has an entry for each octet.
    TOKEN.get(usize::from(octet)).copied().unwrap_or(NO_TOKEN)
}

/// Whether an octet may be in a token.
pub(super) fn is_token_octet(octet: u8) -> bool {
    class(octet) != NO_TOKEN
}

/// The length of the token that a text begins with, and whether it has an octet that is no letter, digit or hyphen.
pub(super) fn token_prefix(text: &[u8]) -> (usize, bool) {
    let mut seen = 0;
    for (at, octet) in text.iter().enumerate() {
        let class = class(*octet);
        if class == NO_TOKEN {
            return (at, seen & ODD != 0);
        }
        seen |= class;
    }
    (text.len(), seen & ODD != 0)
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// A word whose highest bits tell of eight octets which of them are below `bound` (at most 128), exactly as far as the
/// lowest such octet. Octets of 128 and more are not below it.
const fn below(word: u64, bound: u8) -> u64 {
    word.wrapping_sub(ONES * bound as u64) & !word & HIGHS
}

/// The same for octets that are `octet`.
const fn equal(word: u64, octet: u8) -> u64 {
    below(word ^ (ONES * octet as u64), 1)
}

/// Where the first control character is that is no tab (RFC 9110, section 5.5): the length of a field's value. The text's
/// length where there is none.
pub(super) fn control_at(text: &[u8]) -> usize {
    let is_control = |octet: &u8| (*octet < 0x20 && *octet != b'\t') || *octet == 0x7f;
    let (words, rest) = text.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let octets = u64::from_le_bytes(*word);
        if below(octets, 0x20) | equal(octets, 0x7f) == 0 {
            continue;
        }
        // It may be a tab.
        if let Some(at) = word.iter().position(is_control) {
            return index * 8 + at;
        }
    }
    let at = rest.iter().position(is_control).unwrap_or(rest.len());
    words.len() * 8 + at
}

/// Whether a text may be a target's path and query: no space, no control character, no fragment. The octets that RFC 3986
/// does not have there (`"`, `<`, `>`, `\`, `^`, a backquote, `{`, `|`, `}`, those above 127) pass as they do with nginx;
/// HAProxy refuses those above 127, and like this one a `#`.
pub(super) fn is_target(text: &[u8]) -> bool {
    let (words, rest) = text.as_chunks::<8>();
    let is_bad = |octet: u8| octet <= 0x20 || octet == 0x7f || octet == b'#';
    for word in words {
        let word = u64::from_le_bytes(*word);
        if (below(word, 0x21) | equal(word, 0x7f) | equal(word, b'#')) != 0 {
            return false;
        }
    }
    !rest.iter().any(|octet| is_bad(*octet))
}

/// A text without the spaces and tabs that it begins with.
pub(super) fn trim_start(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    text
}

/// A text without the spaces and tabs that it ends with.
pub(super) fn trim_end(mut text: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// A text without the spaces and tabs at its ends.
pub(super) fn trim(text: &[u8]) -> &[u8] {
    trim_end(trim_start(text))
}

/// The elements of a list, without spaces around them. Empty ones are left out, as a recipient has to (RFC 9110,
/// section 5.6.1).
pub(super) fn list(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|octet| *octet == b',')
        .map(trim)
        .filter(|element| !element.is_empty())
}
