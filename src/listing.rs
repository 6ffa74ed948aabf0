//! Selects the rows of an answer that `get` prints, and splits its output into rows.

use anyhow::Context as _;
use fairway_config::view::List;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::args::{GetArgs, Output};

/// One row: what tells it from others, and what is printed.
pub(crate) struct Listed {
    /// Its names.
    pub(crate) key: Vec<String>,
    /// All of it.
    pub(crate) value: Value,
    pub(crate) line: String,
}

/// The rows that are printed.
pub(crate) struct Listing {
    heading: String,
    pub(crate) rows: Vec<Listed>,
    /// For `-o json` and `-o yaml`: everything as one text.
    document: Option<String>,
    /// Names that were asked for and are not there, a sentence each.
    pub(crate) missing: Vec<String>,
}

impl Listing {
    /// As it is printed.
    pub(crate) fn text(&self) -> String {
        if let Some(document) = &self.document {
            return document.clone();
        }
        match self.rows.is_empty() {
            true => String::new(),
            false => self
                .rows
                .iter()
                .fold(self.heading.clone(), |text, row| text + &row.line),
        }
    }
}

/// Whether a program reads it.
pub(crate) fn is_for_machines(args: &GetArgs) -> bool {
    matches!(
        args.output,
        Some(Output::Json | Output::Yaml | Output::Name)
    )
}

/// The items of an answer.
pub(crate) fn items<T: DeserializeOwned>(args: &GetArgs, body: &[u8]) -> anyhow::Result<Vec<T>> {
    Ok(list(args, body)?.items)
}

/// An answer.
pub(crate) fn list<T: DeserializeOwned>(args: &GetArgs, body: &[u8]) -> anyhow::Result<List<T>> {
    serde_json::from_slice(body)
        .with_context(|| format!("{} did not answer as Fairway does", args.asked.admin))
}

/// The rows that were asked for, each with its line of `table`.
pub(crate) fn show<T: DeserializeOwned + serde::Serialize>(
    args: &GetArgs,
    body: &[u8],
    table: impl Fn(&[T]) -> String,
) -> anyhow::Result<Listing> {
    let mut rows: Vec<(Value, T)> = Vec::new();
    for value in items::<Value>(args, body)? {
        if is_wanted(args, &value) {
            let row = serde_json::from_value(value.clone())
                .with_context(|| format!("{} did not answer as Fairway does", args.asked.admin))?;
            rows.push((value, row));
        }
    }
    let missing = args.names.iter().filter(|name| {
        !rows
            .iter()
            .any(|(value, _)| is_named(value, name, args.namespace.as_deref()))
    });
    let place = match &args.namespace {
        Some(namespace) => format!(" in namespace {namespace}"),
        None => String::new(),
    };
    let missing = missing
        .map(|name| format!("there is nothing of the name {name}{place}"))
        .collect();
    let (values, rows): (Vec<Value>, Vec<T>) = rows.into_iter().unzip();
    let key = |value: &Value| {
        let fields = [
            "namespace",
            "service",
            "name",
            "port",
            "protocol",
            "endpoint",
            "listen",
            "address",
            "gateway",
        ];
        let fields = fields.iter().map(|field| value[field].to_string());
        fields.collect()
    };
    if args.output == Some(Output::Name) {
        return Ok(named(args, values, key, missing));
    }
    if is_for_machines(args) {
        let document = match (&args.names[..], &rows[..]) {
            // A request for one object prints the object and no list.
            ([_], [row]) => document(args, row)?,
            _ => document(args, &Items { items: &rows })?,
        };
        let mut shown = Vec::new();
        for (value, row) in values.into_iter().zip(&rows) {
            shown.push(Listed {
                key: key(&value),
                value,
                line: self::document(args, row)?,
            });
        }
        return Ok(Listing {
            heading: String::new(),
            rows: shown,
            document: Some(document),
            missing,
        });
    }
    let text = table(&rows);
    let mut lines = text.split_inclusive('\n');
    let heading = lines.next().unwrap_or_default();
    let heading = match args.no_headers {
        true => String::new(),
        false => heading.to_owned(),
    };
    let rows = values.into_iter().zip(lines).map(|(value, line)| Listed {
        key: key(&value),
        value,
        line: line.to_owned(),
    });
    Ok(Listing {
        heading,
        rows: rows.collect(),
        document: None,
        missing,
    })
}

/// TYPE/NAME, a line each; endpoints are those of a Service.
fn named(
    args: &GetArgs,
    values: Vec<Value>,
    key: impl Fn(&Value) -> Vec<String>,
    missing: Vec<String>,
) -> Listing {
    let mut rows: Vec<Listed> = Vec::new();
    for value in values {
        let field = |field: &str| value[field].as_str();
        let name = field("name").or(field("listen")).or(field("service"));
        let name = name.or(field("address"));
        let name = name.unwrap_or_default();
        let line = format!("{}/{name}\n", args.what.what.of_one());
        let is_same =
            |row: &Listed| row.line == line && row.value["namespace"] == value["namespace"];
        if !rows.last().is_some_and(is_same) {
            let key = key(&value);
            rows.push(Listed { key, value, line });
        }
    }
    Listing {
        heading: String::new(),
        document: Some(rows.iter().map(|row| row.line.as_str()).collect()),
        rows,
        missing,
    }
}

/// A list as it is printed.
#[derive(serde::Serialize)]
struct Items<'a, T> {
    items: &'a [T],
}

fn document(args: &GetArgs, value: &impl serde::Serialize) -> anyhow::Result<String> {
    Ok(match args.output {
        Some(Output::Yaml) => serde_saphyr::to_string(value)?,
        _ => serde_json::to_string_pretty(value)? + "\n",
    })
}

fn is_wanted(args: &GetArgs, row: &Value) -> bool {
    let mut names = args.names.iter();
    let in_namespace = match (args.namespace.as_deref(), row["namespace"].as_str()) {
        (Some(wanted), Some(namespace)) => wanted == namespace,
        _ => true,
    };
    in_namespace
        && (args.names.is_empty()
            || names.any(|name| is_named(row, name, args.namespace.as_deref())))
}

/// Whether a row is of that name, or of a Service of that name: NAME or NAMESPACE/NAME.
fn is_named(row: &Value, name: &str, namespace: Option<&str>) -> bool {
    let field = |field: &str| row[field].as_str();
    let (front, name) = match name.split_once('/') {
        Some((front, name)) => (Some(front), name),
        None => (None, name),
    };
    let wanted = front.or(namespace);
    wanted.is_none_or(|wanted| field("namespace").is_none_or(|it| it == wanted))
        && field("name").or(field("service")).or(field("address")) == Some(name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_is_found_by_its_name_or_that_of_its_service() {
        let service = json!({"namespace": "shop", "name": "web"});
        let endpoint = json!({"namespace": "shop", "service": "web", "port": 80});
        let pool = json!({"name": "edge"});
        for (row, name, namespace, wanted) in [
            (&service, "web", None, true),
            (&service, "web", Some("shop"), true),
            (&service, "web", Some("bank"), false),
            (&service, "shop/web", None, true),
            (&service, "bank/web", None, false),
            (&service, "we", None, false),
            (&endpoint, "web", None, true),
            (&endpoint, "shop/web", None, true),
            (&pool, "edge", Some("shop"), true),
            (&pool, "web", None, false),
        ] {
            assert_eq!(
                is_named(row, name, namespace),
                wanted,
                "{row} {name} {namespace:?}"
            );
        }
    }
}
