//! Manifests that are there by way of links: served when the link appears, and when what it leads to
//! changes, appears or goes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::bed::{Bed, service};

/// Heard of, and not found by looking at everything after a while or by waiting for a close that does
/// not come.
const HEARD: Duration = Duration::from_secs(8);

/// A bed that looks at everything once alone, a directory beside it, and its Service `a` on port 80.
async fn bed() -> (Bed, PathBuf) {
    let mut bed = Bed::new();
    bed.resync = Duration::from_secs(3600);
    let beside = bed.manifests.with_file_name("beside");
    fs::create_dir(&beside).unwrap();
    bed.put("first.yaml", &service("first", 80));
    bed.open().await;
    (bed, beside)
}

async fn port_is(bed: &mut Bed, name: &str, port: u16, what: &str) {
    let began = Instant::now();
    bed.until(what, |bed| {
        let service = bed.services.get(name);
        service.is_some_and(|it| it.service.ports[0].port == port)
    })
    .await;
    let took = began.elapsed();
    assert!(took < HEARD, "{what} took {took:?}");
}

#[tokio::test]
async fn a_link_that_appears_is_served_at_once() {
    let (mut bed, beside) = bed().await;
    fs::write(beside.join("a"), service("a", 81)).unwrap();
    symlink(beside.join("a"), bed.manifests.join("a.yaml")).unwrap();
    port_is(&mut bed, "default/a", 81, "a new link").await;
    // As ln -sf does it.
    fs::write(beside.join("other"), service("a", 82)).unwrap();
    symlink(beside.join("other"), bed.manifests.join("a.new")).unwrap();
    fs::rename(bed.manifests.join("a.new"), bed.manifests.join("a.yaml")).unwrap();
    port_is(&mut bed, "default/a", 82, "a link that is swapped").await;
    // What the new one leads to is watched.
    fs::write(beside.join("other"), service("a", 83)).unwrap();
    port_is(&mut bed, "default/a", 83, "a change behind it").await;
    // A second name for a file.
    fs::write(beside.join("b"), service("b", 81)).unwrap();
    fs::hard_link(beside.join("b"), bed.manifests.join("b.yaml")).unwrap();
    port_is(&mut bed, "default/b", 81, "a hard link").await;
    fs::remove_file(bed.manifests.join("a.yaml")).unwrap();
    bed.gone("default/a").await;
}

#[tokio::test]
async fn a_link_to_a_directory_is_served_at_once_and_goes() {
    let (mut bed, beside) = bed().await;
    fs::write(beside.join("a.yaml"), service("a", 81)).unwrap();
    symlink(&beside, bed.manifests.join("beside")).unwrap();
    port_is(&mut bed, "default/a", 81, "a link to a directory").await;
    fs::write(beside.join("b.yaml"), service("b", 81)).unwrap();
    port_is(&mut bed, "default/b", 81, "a file in it").await;
    let began = Instant::now();
    fs::remove_file(bed.manifests.join("beside")).unwrap();
    bed.gone("default/a").await;
    assert!(began.elapsed() < HEARD);
}

#[tokio::test]
async fn what_a_link_leads_to_may_come_later_change_in_any_way_and_go() {
    let (mut bed, beside) = bed().await;
    // By way of two links and a directory that is a link, none of which lead anywhere yet.
    symlink(beside.join("second"), bed.manifests.join("a.yaml")).unwrap();
    symlink("current/deep/a", beside.join("second")).unwrap();
    bed.until("it to be named", |bed| {
        bed.problems().iter().any(|it| it.starts_with("a.yaml"))
    })
    .await;
    fs::create_dir_all(beside.join("one/deep")).unwrap();
    fs::write(beside.join("one/deep/a"), service("a", 81)).unwrap();
    symlink("one", beside.join("current")).unwrap();
    port_is(&mut bed, "default/a", 81, "what it leads to, at last").await;
    let write = |path: &Path, port| fs::write(path, service("a", port)).unwrap();
    write(&beside.join("one/deep/a"), 82);
    port_is(&mut bed, "default/a", 82, "a change in place").await;
    write(&beside.join("one/deep/next"), 83);
    fs::rename(beside.join("one/deep/next"), beside.join("one/deep/a")).unwrap();
    port_is(&mut bed, "default/a", 83, "another file in its place").await;
    fs::create_dir_all(beside.join("two/deep")).unwrap();
    write(&beside.join("two/deep/a"), 84);
    symlink("two", beside.join("current.new")).unwrap();
    fs::rename(beside.join("current.new"), beside.join("current")).unwrap();
    port_is(&mut bed, "default/a", 84, "another directory").await;
    // What goes there was not taken away from the manifests: it stays in force.
    fs::rename(beside.join("two"), beside.join("gone")).unwrap();
    bed.until("the problem", |bed| {
        let service = &bed.services["default/a"];
        service.source_problem.is_some() && service.service.ports[0].port == 84
    })
    .await;
    fs::create_dir_all(beside.join("two/deep")).unwrap();
    write(&beside.join("two/deep/a"), 85);
    port_is(&mut bed, "default/a", 85, "it to be back").await;
    bed.until("no problem", |bed| bed.problems().is_empty())
        .await;
}

#[tokio::test]
async fn what_is_being_written_elsewhere_is_not_waited_for() {
    use std::io::Write as _;
    let (mut bed, beside) = bed().await;
    let write = |path: &Path, port| fs::write(path, service("a", port)).unwrap();
    // Somebody writes to the file of this path, and does not end.
    let begin = |path: &Path| {
        let mut file = fs::File::create(path).unwrap();
        file.write_all(b"kind: ").unwrap();
        file
    };
    let link = |target: &Path, link: &Path| {
        symlink(target, link.with_extension("new")).unwrap();
        fs::rename(link.with_extension("new"), link).unwrap();
    };
    let manifest = bed.manifests.join("a.yaml");
    write(&beside.join("one"), 81);
    write(&beside.join("two"), 82);
    link(&beside.join("one"), &manifest);
    port_is(&mut bed, "default/a", 81, "a link").await;

    let mut open = vec![begin(&beside.join("one"))];
    link(&beside.join("two"), &manifest);
    port_is(&mut bed, "default/a", 82, "another file in this directory").await;

    open.push(begin(&beside.join("two")));
    fs::create_dir(beside.join("other")).unwrap();
    write(&beside.join("other/one"), 83);
    link(&beside.join("other/one"), &manifest);
    port_is(&mut bed, "default/a", 83, "a file in another directory").await;

    open.push(begin(&beside.join("other/one")));
    write(&beside.join("other/next"), 84);
    fs::rename(beside.join("other/next"), beside.join("other/one")).unwrap();
    port_is(&mut bed, "default/a", 84, "a file moved into its place").await;

    open.push(begin(&beside.join("other/one")));
    fs::create_dir(beside.join("another")).unwrap();
    write(&beside.join("another/one"), 85);
    fs::rename(beside.join("other"), beside.join("former")).unwrap();
    fs::rename(beside.join("another"), beside.join("other")).unwrap();
    port_is(&mut bed, "default/a", 85, "a directory in its place").await;

    // The same without a link.
    fs::remove_file(&manifest).unwrap();
    bed.gone("default/a").await;
    fs::create_dir(bed.manifests.join("sub")).unwrap();
    write(&bed.manifests.join("sub/a.yaml"), 86);
    port_is(&mut bed, "default/a", 86, "a file in a directory").await;
    open.push(begin(&bed.manifests.join("sub/a.yaml")));
    fs::rename(bed.manifests.join("sub"), beside.join("sub")).unwrap();
    fs::create_dir(bed.manifests.join("sub")).unwrap();
    write(&bed.manifests.join("sub/a.yaml"), 87);
    port_is(&mut bed, "default/a", 87, "a file in another of the name").await;
}

#[tokio::test]
async fn what_is_half_written_behind_a_link_is_not_taken_as_the_truth() {
    use std::io::Write as _;
    let (mut bed, beside) = bed().await;
    let both = |port| format!("{}---\n{}", service("a", port), service("b", port));
    fs::write(beside.join("a"), both(81)).unwrap();
    symlink(beside.join("a"), bed.manifests.join("a.yaml")).unwrap();
    port_is(&mut bed, "default/b", 81, "both").await;
    let mut file = fs::File::create(beside.join("a")).unwrap();
    file.write_all(service("a", 82).as_bytes()).unwrap();
    // Everything is looked at meanwhile.
    fs::create_dir(bed.manifests.join("sub")).unwrap();
    bed.put("sub/c.yaml", &service("c", 80));
    bed.there("default/c").await;
    let ports =
        |bed: &Bed| ["default/a", "default/b"].map(|name| bed.services[name].service.ports[0].port);
    assert_eq!(ports(&bed), [81, 81]);
    file.write_all(format!("---\n{}", service("b", 82)).as_bytes())
        .unwrap();
    drop(file);
    bed.until("all of it", |bed| ports(bed) == [82, 82]).await;
}
