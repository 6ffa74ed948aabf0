//! A process that is killed in the middle of its work.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use fairway_config::exchange::Change;
use fairway_controller::{Controller, DirectorySettings, DirectoryStore, Store};
use fairway_controller_core::Settings;
use tokio_util::sync::CancellationToken;

use super::bed::{Bed, service};

/// Names the directory that the process works in which is to be killed: this test, run again.
const WHERE: &str = "FAIRWAY_TEST_DIRECTORY";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_before_a_kill_is_there_after_it() {
    if let Some(above) = std::env::var_os(WHERE) {
        return work_until_killed(PathBuf::from(above)).await;
    }
    let mut bed = Bed::new();
    bed.put(
        "pool.yaml",
        "apiVersion: fairway.dev/v1alpha1\nkind: AddressPool\nmetadata: {name: edge}\n\
         spec: {addresses: [198.18.0.0/15]}\n",
    );
    let mut told = BTreeMap::new();
    for lines in [1, 5, 30, 90, 200] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "crash::what_was_told_before_a_kill_is_there_after_it",
            ])
            .arg("--nocapture")
            .env(WHERE, bed.manifests.parent().unwrap())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut text = String::new();
        for _ in 0..lines {
            output.read_line(&mut text).unwrap();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        output.read_to_string(&mut text).unwrap();
        // The last line may have been cut short by the kill.
        let whole = text.rsplit_once('\n').unwrap().0;
        for line in whole.lines().filter(|line| line.starts_with("told ")) {
            let (name, held) = line[5..].split_once(' ').unwrap();
            let held = held.to_owned();
            let before = told.insert(name.to_owned(), held.clone());
            assert!(before.is_none_or(|it| it == held), "{name} lost {held}");
        }
        whole_files(&bed.state.join("services"));
        bed.open().await;
        for (name, held) in &told {
            let now = format!("{:?}", bed.services[name].held.addresses);
            assert_eq!(now, *held, "{name}");
        }
        assert_eq!(bed.problems(), [""; 0]);
        bed.close().await;
    }
    assert!(told.len() > 30, "{} were told of", told.len());
}

/// Every file that people see parses as one Service.
fn whole_files(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            whole_files(&path);
        } else if !name.starts_with('.') {
            let text = fs::read_to_string(&path).unwrap();
            let documents = fairway_config::document::documents(&text).unwrap();
            assert_eq!(documents.len(), 1, "{}", path.display());
            assert!(text.contains("kind: Service"), "{}", path.display());
        }
    }
}

/// Takes in Services one after the other and tells of each when it would survive a crash.
async fn work_until_killed(above: PathBuf) {
    let manifests = above.join("manifests");
    let settings = DirectorySettings::new(&manifests, above.join("state"));
    let store = Arc::new(DirectoryStore::open(settings).unwrap());
    let mut batches = store.subscribe();
    let (controller, _handle) = Controller::new(
        store,
        Settings::standalone("fairway.dev/gateway".into(), Default::default()),
    );
    tokio::spawn(controller.run(CancellationToken::new()));
    tokio::task::spawn_blocking(move || {
        for n in 0.. {
            // A new one, and one that is there already in another form.
            for (n, port) in [(n, 80), (n / 2, 81 + n % 100)] {
                let next = manifests.join(".next");
                fs::write(&next, service(&format!("s-{n}"), port)).unwrap();
                fs::rename(&next, manifests.join(format!("s-{n}.yaml"))).unwrap();
            }
            std::thread::sleep(std::time::Duration::from_micros(500));
        }
    });
    while let Some(batch) = batches.recv().await {
        for change in batch.changes {
            if let Change::Service(name, Some(it)) = change
                && !it.held.addresses.is_empty()
            {
                println!("told {name} {:?}", it.held.addresses);
            }
        }
    }
}
