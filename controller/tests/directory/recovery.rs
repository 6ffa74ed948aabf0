//! A state directory that lost a part of what it held. What Services hold stands there twice, in the
//! memory and in the views: one of the two is enough.

use std::fs;
use std::path::Path;

use super::bed::{Bed, Given};

/// Six Services and one that has a health check port. A second round adds five whose names go before
/// theirs, so that a controller that has forgotten everything gives out other addresses.
fn fill(bed: &Bed, names: std::ops::Range<usize>) {
    for n in names {
        let local = if n == 7 {
            "externalTrafficPolicy: Local, "
        } else {
            ""
        };
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s{n:02}, namespace: web}}\n\
             spec: {{type: LoadBalancer, {local}ports: [{{name: a, port: 80}}, \
             {{name: b, port: 53, protocol: UDP}}]}}\n"
        );
        bed.put(&format!("s{n:02}.yaml"), &text);
    }
}

const POOL: &str = "apiVersion: fairway.dev/v1alpha1\nkind: AddressPool\nmetadata: {name: edge}\n\
    spec: {addresses: [192.0.2.0/24]}\n";

/// A state in which eleven Services have what they have; the memory of an earlier time is beside it.
async fn used() -> (Bed, Given) {
    let bed = Bed::new();
    bed.put("pool.yaml", POOL);
    fill(&bed, 5..11);
    bed.run(6).await;
    fs::copy(memory(&bed.state), bed.state.join("old")).unwrap();
    fill(&bed, 0..5);
    // Another port: it gets a node port of its own.
    let path = bed.manifests.join("s09.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(
        path,
        text.replace("name: a, port: 80", "name: c, port: 8080"),
    )
    .unwrap();
    let (rows, problems) = bed.run(11).await;
    assert_eq!(problems, [""; 0]);
    (bed, rows)
}

fn memory(state: &Path) -> std::path::PathBuf {
    state.join("memory.jsonl")
}

fn views(state: &Path) -> Vec<std::path::PathBuf> {
    let folder = fs::read_dir(state.join("services/web")).unwrap();
    folder.map(|entry| entry.unwrap().path()).collect()
}

fn change_memory(state: &Path, change: impl Fn(Vec<u8>) -> Vec<u8>) {
    let before = fs::read(memory(state)).unwrap();
    fs::write(memory(state), change(before)).unwrap();
}

/// What happens to the state, what is said of it.
type Damage = (&'static str, fn(&Path), &'static str);

const DAMAGES: [Damage; 11] = [
    (
        "memory is removed",
        |state| fs::remove_file(memory(state)).unwrap(),
        "memory.jsonl: is missing: what 11 Services hold was taken from services/",
    ),
    (
        "memory is emptied",
        |state| fs::write(memory(state), "").unwrap(),
        "memory.jsonl: is empty: what 11 Services hold was taken from services/",
    ),
    (
        "memory is zeros",
        |state| change_memory(state, |it| vec![0; it.len()]),
        "memory.jsonl: is empty: what 11 Services hold was taken from services/",
    ),
    (
        "memory has its first line alone",
        |state| {
            change_memory(state, |it| {
                let end = it.iter().position(|byte| *byte == b'\n').unwrap();
                it[..=end].to_vec()
            });
        },
        "memory.jsonl: lacks Services that services/ shows",
    ),
    (
        "memory is cut in the middle",
        |state| change_memory(state, |it| it[..it.len() / 2].to_vec()),
        "was taken from services/",
    ),
    (
        "memory is an old copy",
        |state| {
            fs::rename(state.join("old"), memory(state))
                .map(drop)
                .unwrap()
        },
        "memory.jsonl: lacks Services that services/ shows: what 6 Services hold",
    ),
    (
        "memory is of another version",
        |state| {
            change_memory(state, |it| {
                let text = String::from_utf8(it).unwrap();
                text.replace("\"manifest\":", "\"object\":").into_bytes()
            });
        },
        "some of the state can't be read",
    ),
    (
        "every second line of memory is garbage",
        |state| {
            change_memory(state, |it| {
                let lines = it.split(|byte| *byte == b'\n').enumerate();
                let lines = lines.map(|(n, line)| if n % 2 == 0 { line } else { b"\xff\xfe" });
                lines.collect::<Vec<_>>().join(&b'\n')
            });
        },
        "some of the state can't be read",
    ),
    (
        "the views are removed",
        |state| fs::remove_dir_all(state.join("services")).unwrap(),
        "",
    ),
    (
        "the views are garbled",
        |state| {
            for view in views(state) {
                fs::write(view, "kind: [Service\n").unwrap();
            }
        },
        "",
    ),
    (
        "the views are emptied",
        |state| {
            for view in views(state) {
                fs::write(view, "").unwrap();
            }
        },
        "",
    ),
];

#[tokio::test]
async fn one_of_memory_and_views_is_enough_to_renumber_nothing() {
    for (what, damage, said) in DAMAGES {
        let (bed, before) = used().await;
        damage(&bed.state);
        let (after, problems) = bed.run(11).await;
        assert_eq!(after, before, "{what}: {problems:#?}");
        let is_said = problems.iter().any(|it| it.contains(said));
        assert!(said.is_empty() || is_said, "{what}: {problems:#?}");
        // All of it is written anew: the next start finds nothing wrong.
        let (again, problems) = bed.run(11).await;
        assert_eq!(again, before, "{what}, the second time");
        assert_eq!(problems, [""; 0], "{what}, the second time");
    }
}

#[tokio::test]
async fn where_both_are_lost_it_is_said_of_which_services() {
    let (bed, before) = used().await;
    change_memory(&bed.state, |_| Vec::new());
    fs::write(bed.state.join("services/web/s03.yaml"), "kind: [").unwrap();
    let (mut after, problems) = bed.run(11).await;
    let is_named = |it: &String| it.contains("memory.jsonl") && it.contains("web/s03.yaml");
    assert!(problems.iter().any(is_named), "{problems:#?}");
    let lost = after.remove("s03");
    assert!(lost.is_some());
    let others = before.into_iter().filter(|(name, _)| name != "s03");
    assert_eq!(after, others.collect());

    let (bed, _) = used().await;
    fs::remove_file(memory(&bed.state)).unwrap();
    fs::remove_dir_all(bed.state.join("services")).unwrap();
    let (_, problems) = bed.run(11).await;
    let is_said = |it: &String| it.contains("what Services held is not known");
    assert!(problems.iter().any(is_said), "{problems:#?}");
}

#[tokio::test]
async fn a_new_state_directory_has_no_problem() {
    let bed = Bed::new();
    bed.put("pool.yaml", POOL);
    let (_, problems) = bed.run(0).await;
    assert_eq!(problems, [""; 0]);
    let (_, problems) = bed.run(0).await;
    assert_eq!(problems, [""; 0]);
}

#[tokio::test]
async fn a_view_of_a_service_that_is_gone_is_no_loss_and_goes() {
    let (bed, _) = used().await;
    let view = bed.state.join("services/web/s03.yaml");
    let kept = fs::read(&view).unwrap();
    fs::remove_file(bed.manifests.join("s03.yaml")).unwrap();
    bed.run(10).await;
    // As after a crash between the two writes.
    fs::write(&view, kept).unwrap();
    let (rows, problems) = bed.run(10).await;
    assert_eq!(problems, [""; 0]);
    assert!(!rows.contains_key("s03"));
    assert!(!view.exists());
}
