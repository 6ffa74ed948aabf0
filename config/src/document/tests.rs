#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::json;

use super::*;

fn values(text: &str) -> Vec<Value> {
    documents(text)
        .unwrap()
        .into_iter()
        .map(|document| document.value)
        .collect()
}

fn places(text: &str) -> Vec<(usize, String)> {
    documents(text)
        .unwrap()
        .into_iter()
        .map(|document| (document.number, document.prefix))
        .collect()
}

fn error(text: &str) -> String {
    documents(text).unwrap_err().to_string()
}

#[test]
fn empty_documents_are_passed_over_and_not_counted() {
    assert_eq!(places(""), []);
    assert_eq!(places("# nothing\n---\n---\n# here\n"), []);
    let text = "---\n# a comment\n---\na: 1\n---\n\n---\nb: 2\n...\n";
    assert_eq!(places(text), [(1, String::new()), (2, String::new())]);
    assert_eq!(values("\u{feff}a: 1\n"), [json!({"a": 1})]);
    assert_eq!(values("a: 1\r\n---\r\nb: 2\r\n").len(), 2);
}

#[test]
fn json_is_read_alone_and_in_a_row() {
    assert_eq!(values(" {\"a\": 1}\n{\"b\": 2}").len(), 2);
    assert_eq!(
        values("{a: 1, b: [x, z]}"),
        [json!({"a": 1, "b": ["x", "z"]})]
    );
}

#[test]
fn lists_are_taken_apart_and_their_items_have_places() {
    let text = "
kind: List
items:
- {kind: Service, n: 1}
- kind: ServiceList
  apiVersion: v1
  items: [{n: 2}, {n: 3, kind: Other}]
---
kind: List
items: null
---
kind: Service
";
    assert_eq!(
        places(text),
        [
            (1, "items[0]".to_owned()),
            (1, "items[1].items[0]".to_owned()),
            (1, "items[1].items[1]".to_owned()),
            (3, String::new()),
        ]
    );
    let values = values(text);
    assert_eq!(
        values[1],
        json!({"kind": "Service", "apiVersion": "v1", "n": 2})
    );
    assert_eq!(values[2]["kind"], "Other");
}

#[test]
fn a_problem_in_a_list_names_the_item() {
    let documents = documents("kind: List\nitems: [{kind: Service}]").unwrap();
    let problem = documents[0].problem(
        &Arc::from("a.yaml"),
        "Service web/shop",
        FieldProblem {
            field: "spec.ports[0].nodePort".to_owned(),
            message: "is wrong".to_owned(),
        },
    );
    assert_eq!(
        problem.to_string(),
        "a.yaml, document 1, Service web/shop, items[0].spec.ports[0].nodePort: is wrong"
    );
}

#[test]
fn scalars_are_what_kubernetes_takes_them_for() {
    let table = [
        ("yes", json!(true)),
        ("off", json!(false)),
        ("y", json!(true)),
        ("'yes'", json!("yes")),
        ("true", json!(true)),
        ("\"80\"", json!("80")),
        ("80", json!(80)),
        ("010", json!(8)),
        ("1.5", json!(1.5)),
        ("~", json!(null)),
        ("null", json!(null)),
        ("203.0.113.5", json!("203.0.113.5")),
        ("80:31468/TCP", json!("80:31468/TCP")),
        ("2026-03-02T08:14:03Z", json!("2026-03-02T08:14:03Z")),
        ("!!str 80", json!("80")),
    ];
    for (text, value) in table {
        assert_eq!(
            values(&format!("a: {text}")),
            [json!({"a": value})],
            "{text}"
        );
    }
    // Keys are texts, whatever they look like.
    assert_eq!(values("on: 1\n80: 2\n"), [json!({"on": 1, "80": 2})]);
    assert_eq!(values("a: &x {b: 1}\nc: *x\n")[0]["c"], json!({"b": 1}));
}

#[test]
fn a_text_that_is_neither_says_where() {
    for (text, part) in [
        ("a: [1, 2\nb: 3\n", "line 2"),
        ("a: 1\n  b: 2\n", "line 2"),
        ("a: 1\na: 2\n", "line 2"),
        ("{\"a\": 1, \"a\": 2}", "line 1"),
        ("{\"a\": 1]", "line 1"),
        ("a: 'b\n", "line 2"),
        ("a: b\0", "zero bytes"),
    ] {
        let error = error(text);
        assert!(error.contains(part), "{text:?}: {error}");
        assert!(!error.contains('\n'), "{text:?}: {error}");
        assert!(
            error.matches(" line ").count() + error.matches("(line ").count() <= 1,
            "{text:?}: {error}"
        );
    }
}

#[test]
fn a_key_that_stands_twice_is_named() {
    for text in ["spec: 1\nkind: x\nspec: 2\n", "{\"spec\": 1, \"spec\": 2}"] {
        let error = error(text);
        assert!(error.contains("spec"), "{error}");
    }
    // Merged keys are overridden, not doubled.
    let merged = "a: &a {b: 1, c: 2}\nd: {<<: *a, b: 3}\ne: {b: 4, <<: *a}\n";
    assert_eq!(values(merged)[0]["d"], json!({"b": 3, "c": 2}));
    assert_eq!(values(merged)[0]["e"], json!({"b": 4, "c": 2}));
}

/// Ten lines that would be 10⁹ nodes.
#[test]
fn aliases_can_not_blow_up() {
    let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..10 {
        let below = format!("*a{}", level - 1);
        let row = vec![below; 10].join(",");
        text.push_str(&format!("a{level}: &a{level} [{row}]\n"));
    }
    let error = error(&text);
    assert!(error.starts_with("is not YAML: "), "{error}");
}

#[test]
fn aliases_of_one_long_text_can_not_blow_up() {
    let mut text = format!("long: &long {}\nlist:\n", "x".repeat(1_000_000));
    text.push_str(&"- *long\n".repeat(1_000));
    let error = error(&text);
    assert!(error.starts_with("is not YAML: "), "{error}");
}

#[test]
fn one_anchor_may_have_many_aliases() {
    let mut text = String::from("base: &base {app: web, tier: front}\nitems:\n");
    for number in 0..2_000 {
        text.push_str(&format!("- {{name: s{number}, labels: *base}}\n"));
        text.push_str(&format!("- {{<<: *base, name: m{number}}}\n"));
    }
    let value = values(&text).remove(0);
    let items = value["items"].as_array().unwrap();
    assert_eq!(items.len(), 4_000);
    assert_eq!(items[3_998]["labels"]["app"], "web");
    assert_eq!(items[3_999]["tier"], "front");
}

#[test]
fn byte_order_marks_are_passed_over_wherever_files_begin() {
    let mark = BYTE_ORDER_MARK;
    for (text, count) in [
        (format!("{mark}a: 1\n---\n{mark}b: 2\n"), 2),
        (format!("a: 1\n{mark}---\nb: 2\n"), 2),
        (format!("{mark}# nothing\n{mark}---\r\n{mark}b: 2\n"), 1),
        (format!("{mark}{{\"a\": 1}}{mark}{{\"b\": 2}}\n"), 2),
        (format!("{mark}{{\"a\": 1}}\n{mark}{{\"b\": 2}}\n"), 2),
        (format!("{mark}{mark}a: 1\n"), 1),
    ] {
        assert_eq!(values(&text).len(), count, "{text:?}");
    }
    // In the midst of a text it is a letter of it.
    let inside = values(&format!("a: 'x{mark}y'\n"));
    assert_eq!(inside, [json!({"a": format!("x{mark}y")})]);
}

#[test]
fn utf_16_is_read_in_both_orders() {
    let text = "a: \u{e9}\u{1f6a2}\n---\nb: 2\n";
    for marked in [true, false] {
        for order in [u16::to_le_bytes, u16::to_be_bytes] {
            let mark = marked.then_some(BYTE_ORDER_MARK);
            let whole: String = mark.into_iter().chain(text.chars()).collect();
            let bytes: Vec<u8> = whole.encode_utf16().flat_map(order).collect();
            let read = decode(bytes.clone()).unwrap();
            assert_eq!(values(&read), values(text));
            let cut = bytes[..bytes.len() - 1].to_vec();
            assert!(decode(cut).is_err());
        }
    }
    assert_eq!(decode(text.as_bytes().to_vec()).as_deref(), Ok(text));
    assert_eq!(
        decode(b"a: \xff".to_vec()).unwrap_err().to_string(),
        "is not UTF-8 text (byte 4)"
    );
}

#[test]
fn nesting_is_bounded() {
    for text in [
        "[".repeat(100_000),
        "{\"a\":".repeat(100_000),
        "- ".repeat(100_000),
        (0..1000)
            .map(|n| format!("{}a:\n", " ".repeat(n)))
            .collect(),
        format!("a: {}", "{a: ".repeat(10_000)),
    ] {
        error(&text);
    }
    let nested = "{\"kind\":\"List\",\"items\":[".repeat(12) + &"]}".repeat(12);
    assert_eq!(documents(&nested), Err(DocumentError::NestedLists(1)));
}

/// What `kubectl apply` leaves in an annotation, in double quotes on one line.
#[test]
fn a_long_quoted_value_is_read() {
    let long = "x".repeat(200_000);
    assert_eq!(values(&format!("a: \"{long}\"\n"))[0]["a"], long.as_str());
    assert_eq!(values(&format!("a: '{long}'\n"))[0]["a"], long.as_str());
    assert_eq!(values(&format!("a: {long}\n"))[0]["a"], long.as_str());
}

#[test]
fn a_dump_of_many_documents_is_read() {
    let text = "a: {b: [1, 2, 3], c: text}\n---\n".repeat(50_000);
    assert_eq!(documents(&text).unwrap().len(), 50_000);
}
