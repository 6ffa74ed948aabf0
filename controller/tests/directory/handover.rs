//! A store hands its directory over to that of another process.

use std::fs;
use std::sync::Arc;

use fairway_controller::{DirectorySettings, DirectoryStore, OpenError, TakeError, WriteOutcome};

use super::bed::{Bed, granted, service, written};

/// Has the store leave the directory alone, off the runtime's thread.
async fn hold(store: &Arc<DirectoryStore>) {
    let store = store.clone();
    let is_held = tokio::task::spawn_blocking(move || store.hold());
    assert!(is_held.await.unwrap());
}

#[tokio::test]
async fn nothing_is_written_between_two_processes_and_then_by_the_second_alone() {
    let mut bed = Bed::new();
    bed.put("a.yaml", &service("a", 80));
    bed.open().await;
    bed.grant("default/a", "192.0.2.1", 30_500).await;
    let stored = bed.there("default/a").await;
    let first = bed.store().clone();
    hold(&first).await;
    let memory = bed.state.join("memory.jsonl");
    let before = fs::read(&memory).unwrap();
    let settings = DirectorySettings {
        is_held: true,
        ..bed.settings()
    };
    let second = Arc::new(DirectoryStore::open(settings).unwrap());
    // Both wait with what is to be written.
    let write = |store: &Arc<DirectoryStore>, address| {
        let (store, write) = (store.clone(), granted(&stored, address));
        tokio::spawn(async move { written(&store, vec![write], None).await })
    };
    let of_first = write(&first, "192.0.2.2");
    let of_second = write(&second, "192.0.2.3");
    // A store that answers has read what came before.
    hold(&first).await;
    hold(&second).await;
    assert!(!of_first.is_finished() && !of_second.is_finished());
    assert_eq!(fs::read(&memory).unwrap(), before);

    let lock = first.share_lock().unwrap();
    let owning = second.clone();
    tokio::task::spawn_blocking(move || owning.own(Some(lock)).unwrap())
        .await
        .unwrap();
    first.give_up();
    assert!(matches!(
        &of_first.await.unwrap()[..],
        [WriteOutcome::Failed(_)]
    ));
    assert_eq!(of_second.await.unwrap(), [WriteOutcome::Written]);
    assert!(
        String::from_utf8(fs::read(&memory).unwrap())
            .unwrap()
            .contains("192.0.2.3")
    );
    // The lock stays when the first one goes.
    drop(first);
    bed.close().await;
    assert!(matches!(
        DirectoryStore::open(bed.settings()).err(),
        Some(OpenError::State(TakeError::Locked { .. }))
    ));
    tokio::task::spawn_blocking(move || drop(second))
        .await
        .unwrap();
    assert!(DirectoryStore::open(bed.settings()).is_ok());
}

#[tokio::test]
async fn a_store_goes_on_where_the_second_process_has_ended() {
    let mut bed = Bed::new();
    bed.put("a.yaml", &service("a", 80));
    bed.open().await;
    let stored = bed.there("default/a").await;
    let store = bed.store().clone();
    hold(&store).await;
    drop(store.share_lock().unwrap());
    bed.put("b.yaml", &service("b", 80));
    let write = {
        let (store, write) = (store.clone(), granted(&stored, "192.0.2.1"));
        tokio::spawn(async move { written(&store, vec![write], None).await })
    };
    store.go_on();
    assert_eq!(write.await.unwrap(), [WriteOutcome::Written]);
    bed.there("default/b").await;
    drop(store);
    bed.close().await;
    assert!(DirectoryStore::open(bed.settings()).is_ok());
}
