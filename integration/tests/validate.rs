//! `fairway validate`, as a person and as a pipeline use it.

use std::process::Output;

use anyhow::{Result, ensure};
use fairway_integration::{fairway::text, programs, tests};
use serde_json::Value;

tests![
    warnings_alone_are_no_reason_to_fail,
    an_error_is_one,
    an_error_hides_no_misspelt_field,
    standard_input_is_read,
    utf_16_is_read,
    json_has_the_counts_and_each_problem_with_its_severity,
];

const POOL: &str = "{apiVersion: fairway.dev/v1alpha1, kind: AddressPool, metadata: {name: edge}, spec: {addresses: [203.0.113.0/28]}}";

fn service(annotations: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: shop, annotations: {{{annotations}}}}}, spec: {{type: LoadBalancer, {spec}}}}}\n"
    )
}

/// Everything that a Service needs.
fn good() -> String {
    let slice = "---\n{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: shop-a, labels: {kubernetes.io/service-name: shop}}, addressType: IPv4, ports: [{port: 8080}], endpoints: [{addresses: [192.0.2.1]}]}\n";
    POOL.to_owned() + "\n" + &service("", "ports: [{port: 80}]") + slice
}

fn validate(arguments: &[&str], input: &[u8]) -> Result<Output> {
    programs::fairway_with_input(&[&["validate"], arguments].concat(), input)
}

fn said(input: &str, code: i32) -> Result<String> {
    let output = validate(&["-"], input.as_bytes())?;
    ensure!(output.status.code() == Some(code), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

fn an_error_hides_no_misspelt_field() -> Result<()> {
    let said = said(&service("", "prots: [{port: 80}]"), 1)?;
    has(&said, &["spec.ports", "is missing"])?;
    has(&said, &["spec.prots", "warning", "is ports meant?"])
}

fn has(said: &str, words: &[&str]) -> Result<()> {
    let found = said
        .lines()
        .any(|line| words.iter().all(|word| line.contains(word)));
    ensure!(found, "no line has {words:?}: {said}");
    Ok(())
}

fn warnings_alone_are_no_reason_to_fail() -> Result<()> {
    let odd = good()
        + "---\n{apiVersion: v1, kind: Servce, metadata: {name: a}}\n"
        + "---\n{apiVersion: v1, kind: Service, metadata: {name: b, annotations: {metallb.io/allow-shared-ips: k}}, spec: {type: LoadBalancer, LoadBalancerclas: x, clusterIP: None, ports: [{port: 80}], sesionAffinity: ClientIP}}\n"
        + "---\n{apiVersion: v1, kind: Service, metadata: {name: c}, spec: {type: LoadBalancer, loadBalancerClass: fairway.dev/gatway, ports: [{port: 80}]}}\n";
    // A class that can't be told is an error of its own.
    let odd = odd.replace("LoadBalancerclas: x, ", "");
    let said = said(&odd, 0)?;
    for words in [
        &["warning: is 'Servce'", "is Service meant?"][..],
        &[
            "Service default/b",
            "spec.sesionAffinity: warning",
            "is sessionAffinity meant?",
        ],
        &["Service default/b", "spec.clusterIP: warning: is None"],
        &["Service default/b", "is metallb.io/allow-shared-ip meant?"],
        &["Service default/b", "warning", "no EndpointSlice here"],
        &[
            "spec.loadBalancerClass: warning",
            "is fairway.dev/gateway meant?",
        ],
        &["no errors,", "warnings"],
    ] {
        has(&said, words)?;
    }
    ensure!(self::said(&good(), 0)?.contains("no problems"));
    let no_pool = good().replace(POOL, "");
    has(
        &self::said(&no_pool, 0)?,
        &["warning", "no AddressPool here"],
    )
}

fn an_error_is_one() -> Result<()> {
    for (text, words) in [
        (
            POOL.to_owned() + "\n" + &service("fairway.dev/pool: no pool", "ports: [{port: 80}]"),
            &["InvalidAnnotation: fairway.dev/pool is 'no pool'"][..],
        ),
        (
            POOL.to_owned()
                + "\n"
                + &service(
                    "metallb.io/loadBalancerIP: 203.0.113.9",
                    "ports: [{port: 80}]",
                ),
            &[
                "No address is given",
                "is metallb.io/loadBalancerIPs meant?",
            ],
        ),
        (
            POOL.replace("spec: {", "spec: {forwarding: Nodes, "),
            &["AddressPool edge, spec.forwarding: is 'Nodes'"],
        ),
        (
            POOL.replace(
                "spec: {",
                "spec: {serviceSelector: {matchLabels: {team: null}}, ",
            ),
            &["AddressPool edge, spec.serviceSelector.matchLabels.team: is null"],
        ),
        (
            service("", "ports: [{port: 80, nodePort: 70000}]"),
            &["NodePortOutOfRange"],
        ),
        (
            service("", "ports: [{port: 80}], loadBalancerSourceRanges: [null]"),
            &["InvalidSourceRange", "nobody is let in"],
        ),
    ] {
        has(&said(&text, 1)?, words)?;
    }
    Ok(())
}

fn standard_input_is_read() -> Result<()> {
    let wrong = said("kind: [", 1)?;
    has(&wrong, &["standard input", "is not YAML"])
}

fn utf_16_is_read() -> Result<()> {
    for order in [u16::to_le_bytes, u16::to_be_bytes] {
        let text = format!("\u{feff}{}", good());
        let bytes: Vec<u8> = text.encode_utf16().flat_map(order).collect();
        let output = validate(&["-"], &bytes)?;
        ensure!(output.status.success(), "{output:?}");
    }
    // Files put together, each with a mark of its own.
    let marked = good().replace("---\n", "---\n\u{feff}");
    ensure!(said(&marked, 0)?.contains("no problems"));
    Ok(())
}

fn json_has_the_counts_and_each_problem_with_its_severity() -> Result<()> {
    let input =
        good() + &service("fairway.dev/poool: x", "ports: [{port: 0}]").replace("shop", "b");
    let output = validate(&["-o", "json", "-"], input.as_bytes())?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let whole: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(whole["objects"] == 3 && whole["files"] == 1, "{whole}");
    ensure!(whole["errors"] == 1, "{whole}");
    let problem = &whole["problems"][0];
    ensure!(text(problem, "severity") == "error", "{whole}");
    ensure!(text(problem, "object") == "Service default/b", "{whole}");
    ensure!(text(problem, "field") == "spec.ports[0].port", "{whole}");
    ensure!(problem["document"] == 4, "{whole}");
    Ok(())
}
