//! What counts as declared: broken files and objects, links, files that are being written.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use super::bed::{Bed, TCP_80, service};

#[tokio::test]
async fn a_file_that_is_no_yaml_keeps_what_it_declared_also_over_a_restart() {
    let mut bed = Bed::new();
    bed.put("a.yaml", &service("a", 80));
    bed.put("b.yaml", &service("b", 80));
    bed.open().await;
    bed.grant("default/a", "192.0.2.1", 30_500).await;
    bed.put("a.yaml", "kind: [Service\n");
    bed.until("the problem", |bed| {
        bed.services["default/a"].source_problem.is_some() && bed.problems().len() == 1
    })
    .await;
    bed.close().await;
    bed.open().await;
    let stored = bed.there("default/a").await;
    assert!(stored.source_problem.is_some());
    assert_eq!(stored.held.node_ports[&TCP_80], 30_500);
    assert_eq!(stored.service.ports[0].port, 80);
    bed.until("the problem again", |bed| bed.problems().len() == 1)
        .await;
    bed.put("a.yaml", &service("a", 80));
    bed.until("it to be mended", |bed| {
        bed.services["default/a"].source_problem.is_none() && bed.problems().is_empty()
    })
    .await;
}

#[tokio::test]
async fn an_object_that_cannot_be_decoded_holds_back_itself_alone() {
    let mut bed = Bed::new();
    bed.put(
        "a.yaml",
        &format!("{}---\n{}", service("a", 80), service("b", 80)),
    );
    bed.open().await;
    let bad = service("a", 80).replace("port: 80", "port: eighty");
    bed.put("a.yaml", &format!("{bad}---\n{}", service("b", 81)));
    bed.until("b to change", |bed| {
        bed.services["default/b"].service.ports[0].port == 81
    })
    .await;
    let stored = bed.there("default/a").await;
    assert_eq!(stored.service.ports[0].port, 80);
    assert!(
        stored
            .source_problem
            .as_deref()
            .unwrap()
            .contains("spec.ports[0].port")
    );
    bed.until("the problem", |bed| bed.problems().len() == 1)
        .await;
}

#[tokio::test]
async fn the_same_object_in_two_files_is_taken_from_the_first_path() {
    let mut bed = Bed::new();
    bed.put("b.yaml", &service("a", 82));
    bed.open().await;
    bed.put("a.yaml", &service("a", 81));
    bed.until("the first path to win", |bed| {
        bed.services["default/a"].service.ports[0].port == 81
    })
    .await;
    bed.until("both to be named", |bed| {
        bed.problems()
            .iter()
            .any(|it| it.starts_with("b.yaml") && it.contains("a.yaml"))
    })
    .await;
    fs::remove_file(bed.manifests.join("a.yaml")).unwrap();
    bed.until("the other to follow", |bed| {
        bed.services["default/a"].service.ports[0].port == 82
    })
    .await;
    bed.until("no problems", |bed| bed.problems().is_empty())
        .await;
}

#[tokio::test]
async fn a_mounted_config_map_is_followed_when_its_link_is_swapped() {
    let mut bed = Bed::new();
    let data = |name: &str, port| {
        fs::create_dir(bed.manifests.join(name)).unwrap();
        fs::write(bed.manifests.join(name).join("a.yaml"), service("a", port)).unwrap();
    };
    data("..1", 81);
    symlink("..1", bed.manifests.join("..data")).unwrap();
    symlink("..data/a.yaml", bed.manifests.join("a.yaml")).unwrap();
    data("..2", 82);
    bed.open().await;
    assert_eq!(bed.there("default/a").await.service.ports[0].port, 81);
    symlink("..2", bed.manifests.join("..data_tmp")).unwrap();
    fs::rename(
        bed.manifests.join("..data_tmp"),
        bed.manifests.join("..data"),
    )
    .unwrap();
    fs::remove_dir_all(bed.manifests.join("..1")).unwrap();
    bed.until("the other data", |bed| {
        bed.services["default/a"].service.ports[0].port == 82
    })
    .await;
}

#[tokio::test]
async fn a_half_written_file_is_not_taken_as_the_truth() {
    use std::io::Write as _;
    let mut bed = Bed::new();
    bed.open().await;
    let mut shown = false;
    let mut rounds = 0..;
    while !shown {
        let n = rounds.next().unwrap();
        let (a, b) = (format!("a-{n}"), format!("b-{n}"));
        let port = |bed: &Bed, name: &str| {
            let stored = bed.services.get(&format!("default/{name}"));
            stored.map(|it| it.service.ports[0].port)
        };
        let path = format!("{n}.yaml");
        bed.put(
            &path,
            &format!("{}---\n{}", service(&a, 80), service(&b, 80)),
        );
        bed.there(&format!("default/{b}")).await;
        let mut file = fs::File::create(bed.manifests.join(&path)).unwrap();
        let began = Instant::now();
        file.write_all(service(&a, 81).as_bytes()).unwrap();
        // Another change makes the store look meanwhile.
        fs::create_dir(bed.manifests.join(format!("sub-{n}"))).unwrap();
        bed.put(&format!("sub-{n}/c.yaml"), &service(&format!("c-{n}"), 80));
        bed.there(&format!("default/c-{n}")).await;
        let meanwhile = (port(&bed, &a), port(&bed, &b));
        // After a second nobody is taken to be at work on it any more. Where the machine is so busy
        // that it is over by now, this round has shown nothing.
        shown = began.elapsed() < Duration::from_secs(1);
        if shown {
            assert_eq!(meanwhile, (Some(80), Some(80)));
        }
        file.write_all(format!("---\n{}", service(&b, 81)).as_bytes())
            .unwrap();
        drop(file);
        bed.until("all of it", |bed| {
            (port(bed, &a), port(bed, &b)) == (Some(81), Some(81))
        })
        .await;
    }
}

#[tokio::test]
async fn special_files_and_loops_stop_nothing() {
    let mut bed = Bed::new();
    bed.put("a.yaml", &service("a", 80));
    symlink(&bed.manifests, bed.manifests.join("loop")).unwrap();
    let mode = rustix::fs::Mode::RUSR;
    let pipe = bed.manifests.join("pipe.yaml");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    bed.open().await;
    bed.there("default/a").await;
    bed.until("the pipe to be named", |bed| {
        bed.problems()
            .iter()
            .any(|it| it == "pipe.yaml: is a FIFO and not a file")
    })
    .await;
}
