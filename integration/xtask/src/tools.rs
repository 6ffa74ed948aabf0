//! The Go programs that tests run: the peers of gRPC's interoperability tests, a Kubernetes control
//! plane, GoBGP, Helm, and servers of our own.
//!
//! Each module below `integration/go` is built into a folder of its own in the cache. A program is
//! built at a time: a link of the API server alone holds 1 GB, and a package that two programs share
//! is compiled once all the same, because Go keeps it.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::path::with_path;
use crate::{cache, step};

/// How many packages are compiled at a time, at most: the largest ones take half a gigabyte each.
const AT_A_TIME: usize = 4;
/// How long one program may take, with everything that has to be downloaded and compiled for it.
const LIMIT: Duration = Duration::from_secs(45 * 60);
/// How often a build says how far it is.
const REPORT: Duration = Duration::from_secs(30);

/// A Go module and the programs that are built from it.
#[derive(Debug)]
pub(crate) struct GoModule {
    /// Its folder in `integration/go`.
    folder: &'static str,
    /// What a program is called and which package it is.
    programs: &'static [(&'static str, &'static str)],
    /// Variables that the linker sets, given the text of `go.mod`. What is built with plain `go
    /// build` does not know its own version.
    stamps: fn(&str) -> Result<Vec<String>, String>,
    /// A folder of the module that is asked for, whose files the programs need beside them, and what it is called
    /// there.
    beside: Option<Beside>,
}

/// See [`GoModule::beside`].
#[derive(Debug)]
struct Beside {
    module: &'static str,
    folder: &'static str,
    name: &'static str,
}

/// Those of the tests.
pub(crate) const MODULES: &[GoModule] = &[
    GoModule {
        folder: "interop",
        programs: &[
            ("client", "google.golang.org/grpc/interop/client"),
            ("server", "google.golang.org/grpc/interop/server"),
        ],
        stamps: |_| Ok(Vec::new()),
        beside: None,
    },
    GoModule {
        folder: "kubernetes",
        // The largest first: it compiles most of what the others need.
        programs: &[
            ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            (
                "kube-controller-manager",
                "k8s.io/kubernetes/cmd/kube-controller-manager",
            ),
            ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
            ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
            ("etcd", "go.etcd.io/etcd/server/v3"),
        ],
        stamps: kubernetes_stamps,
        beside: None,
    },
    GoModule {
        folder: "gobgp",
        programs: &[
            ("gobgpd", "github.com/osrg/gobgp/v3/cmd/gobgpd"),
            ("gobgp", "github.com/osrg/gobgp/v3/cmd/gobgp"),
        ],
        stamps: |_| Ok(Vec::new()),
        beside: None,
    },
    GoModule {
        folder: "helm",
        programs: &[("helm", "helm.sh/helm/v3/cmd/helm")],
        stamps: helm_stamps,
        beside: None,
    },
    SERVERS,
];

/// Servers of our own: those that tests and measuring programs have behind Fairway.
pub(crate) const SERVERS: GoModule = GoModule {
    folder: "servers",
    programs: &[("graceful", "fairway.dev/servers/graceful")],
    stamps: |_| Ok(Vec::new()),
    beside: None,
};

/// A peer that Fairway's failover is measured beside.
pub(crate) const METALLB: GoModule = GoModule {
    folder: "metallb",
    programs: &[("speaker", "go.universe.tf/metallb/speaker")],
    stamps: |_| Ok(Vec::new()),
    beside: Some(Beside {
        module: "go.universe.tf/metallb",
        folder: "config/crd/bases",
        name: "crds",
    }),
};

/// Builds what is not there yet, and says where all of it is: folders in the order in which a
/// program is to be looked for.
pub(crate) fn ensure<'a>(
    root: &Path,
    modules: impl IntoIterator<Item = &'a GoModule>,
) -> Result<Vec<PathBuf>, String> {
    // The name under which Kubernetes' own tests look for a control plane that is there already.
    let assets = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let mut folders: Vec<PathBuf> = assets.iter().cloned().collect();
    for module in modules {
        folders.extend(built(
            module,
            &root.join("integration/go").join(module.folder),
            assets.as_deref(),
        )?);
    }
    Ok(folders)
}

/// The folder with a module's programs, but for those that `assets` has. It appears in one step, so
/// it is whole wherever it is.
fn built(
    module: &GoModule,
    source: &Path,
    assets: Option<&Path>,
) -> Result<Option<PathBuf>, String> {
    let wanted: Vec<(&str, &str)> = module
        .programs
        .iter()
        .filter(|(name, _)| !assets.is_some_and(|folder| folder.join(name).is_file()))
        .copied()
        .collect();
    if wanted.is_empty() {
        return Ok(None);
    }
    let go_mod = fs::read_to_string(source.join("go.mod"))
        .map_err(|e| format!("{} can't be read: {e}", source.join("go.mod").display()))?;
    let mut linker = vec!["-s".to_owned(), "-w".to_owned()];
    for stamp in (module.stamps)(&go_mod)? {
        linker.extend(["-X".to_owned(), stamp]);
    }
    let mut what: Vec<&str> = wanted.iter().map(|(name, _)| *name).collect();
    what.extend(linker.iter().map(String::as_str));
    let folder = cache::go_programs(source, &what)?;
    if folder.is_dir() {
        return Ok(Some(folder));
    }
    // Two runs at once would each take all of the machine for the same programs.
    let _turn = turn(&folder)?;
    if folder.is_dir() {
        return Ok(Some(folder));
    }
    let unfinished = folder.with_extension("unfinished");
    let fault = |e: std::io::Error| format!("{} can't be written: {e}", unfinished.display());
    if unfinished.is_dir() {
        // Of a run that was ended.
        fs::remove_dir_all(&unfinished).map_err(fault)?;
    }
    fs::create_dir_all(&unfinished).map_err(fault)?;
    for (n, (name, package)) in wanted.iter().enumerate() {
        let title = format!(
            "Go programs of {}: {name} ({} of {})",
            module.folder,
            n + 1,
            wanted.len()
        );
        let mut go = Command::new("go");
        go.current_dir(source)
            .args(["build", "-v", "-p", &at_a_time().to_string()])
            .args(["-ldflags", &linker.join(" ")])
            .arg("-o")
            .arg(unfinished.join(name))
            .arg(package)
            // No program needs C; without it they run wherever the kernel does.
            .env("CGO_ENABLED", "0");
        step::timed(&title, || {
            compile(with_path(&mut go), LIMIT, &mut |line| {
                eprintln!("{line}");
            })
        })?;
    }
    if let Some(beside) = &module.beside {
        let files = module_folder(source, beside.module)?.join(beside.folder);
        copy_files(&files, &unfinished.join(beside.name))?;
    }
    fs::rename(&unfinished, &folder).map_err(fault)?;
    Ok(Some(folder))
}

/// Where Go has put the source of a module that `go.mod` in `source` asks for.
fn module_folder(source: &Path, module: &str) -> Result<PathBuf, String> {
    let mut go = Command::new("go");
    go.current_dir(source)
        .args(["list", "-m", "-f", "{{.Dir}}", module]);
    let output = with_path(&mut go)
        .output()
        .map_err(|e| format!("go could not be run: {e}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    match said.trim() {
        folder if output.status.success() && !folder.is_empty() => Ok(folder.into()),
        _ => Err(format!("go does not say where the source of {module} is")),
    }
}

fn copy_files(from: &Path, to: &Path) -> Result<(), String> {
    let fault = |e: std::io::Error| format!("{} can't be copied: {e}", from.display());
    fs::create_dir_all(to).map_err(fault)?;
    for entry in fs::read_dir(from).map_err(fault)? {
        let entry = entry.map_err(fault)?;
        fs::copy(entry.path(), to.join(entry.file_name())).map_err(fault)?;
    }
    Ok(())
}

/// Waits until no other run builds this folder. The lock goes with the file, whatever ends this run.
fn turn(folder: &Path) -> Result<File, String> {
    let path = folder.with_extension("lock");
    let fault = |e: std::io::Error| format!("{} can't be locked: {e}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(fault)?;
    }
    let file = File::create(&path).map_err(fault)?;
    if file.try_lock().is_err() {
        eprintln!("    another run builds them; this one waits");
        file.lock().map_err(fault)?;
    }
    Ok(file)
}

fn at_a_time() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get().min(AT_A_TIME))
}

/// Runs `go build -v`, which names each package on a line of its own. There are two thousand of
/// them, so what is `told` is their number, now and then, and every other line at once.
fn compile(go: &mut Command, limit: Duration, told: &mut dyn FnMut(&str)) -> Result<(), String> {
    let mut child = go
        .stderr(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .map_err(|e| format!("go could not be run: {e}"))?;
    let (report, reported) = mpsc::channel();
    if let Some(stderr) = child.stderr.take() {
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if report.send(line).is_err() {
                    return;
                }
            }
        });
    }
    let (start, mut last) = (Instant::now(), Instant::now());
    let (mut fetched, mut compiled) = (0, 0);
    loop {
        match reported.recv_timeout(Duration::from_secs(1)) {
            Ok(line) if line.starts_with("go: downloading ") => fetched += 1,
            Ok(line) if line.starts_with('#') || line.contains(' ') => told(&line),
            Ok(_) => compiled += 1,
            Err(RecvTimeoutError::Timeout) => {}
            // It has closed its output: it ends, or has ended.
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if last.elapsed() >= REPORT {
            last = Instant::now();
            told(&format!(
                "    {:.0} s: {fetched} modules downloaded, {compiled} packages compiled",
                start.elapsed().as_secs_f64()
            ));
        }
        if start.elapsed() >= limit {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("go build took more than {} s", limit.as_secs()));
        }
    }
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("go build ended with {status}")),
        Err(e) => Err(format!("go build: {e}")),
    }
}

/// Without them the API server reports v0.0.0, and clients that ask for a version refuse it.
fn kubernetes_stamps(go_mod: &str) -> Result<Vec<String>, String> {
    let version = required(go_mod, "k8s.io/kubernetes")?;
    let (major, minor) = major_minor(version)?;
    let package = "k8s.io/component-base/version";
    Ok(vec![
        format!("{package}.gitVersion={version}"),
        format!("{package}.gitMajor={major}"),
        format!("{package}.gitMinor={minor}"),
        format!("{package}.gitTreeState=clean"),
    ])
}

/// As Helm's own Makefile has it: a chart's `kubeVersion` is checked against the Kubernetes that the
/// client library belongs to, which numbers its releases v0.MINOR.PATCH.
fn helm_stamps(go_mod: &str) -> Result<Vec<String>, String> {
    let version = required(go_mod, "helm.sh/helm/v3")?;
    let (_, minor) = major_minor(required(go_mod, "k8s.io/client-go")?)?;
    let mut stamps = vec![
        format!("helm.sh/helm/v3/internal/version.version={version}"),
        "helm.sh/helm/v3/internal/version.metadata=".to_owned(),
    ];
    for package in ["pkg/lint/rules", "pkg/chartutil"] {
        stamps.push(format!("helm.sh/helm/v3/{package}.k8sVersionMajor=1"));
        stamps.push(format!("helm.sh/helm/v3/{package}.k8sVersionMinor={minor}"));
    }
    Ok(stamps)
}

/// The version of `module` that `go.mod` asks for.
fn required<'a>(go_mod: &'a str, module: &str) -> Result<&'a str, String> {
    go_mod
        .lines()
        .find_map(|line| {
            let line = line.trim();
            let mut words = line.strip_prefix("require ").unwrap_or(line).split(' ');
            (words.next() == Some(module)).then(|| words.next())?
        })
        .ok_or_else(|| format!("go.mod does not require {module}"))
}

/// `v1.36.3` is 1 and 36.
fn major_minor(version: &str) -> Result<(&str, &str), String> {
    let mut numbers = version.trim_start_matches('v').split('.');
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => Ok((major, minor)),
        _ => Err(format!("'{version}' is no version")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn go_mod(module: &GoModule) -> String {
        let path = cache::root().join("integration/go").join(module.folder);
        fs::read_to_string(path.join("go.mod")).unwrap()
    }

    #[test]
    fn each_program_is_a_tool_of_its_module_and_no_tool_is_left_out() {
        for module in MODULES.iter().chain([&METALLB]) {
            let text = go_mod(module);
            let (_, rest) = text.split_once("\ntool ").expect(module.folder);
            let (tools, _) = rest.split_once("\n\n").unwrap_or((rest, ""));
            let mut tools: Vec<&str> = tools
                .split_whitespace()
                .filter(|word| !matches!(*word, "(" | ")"))
                .collect();
            let mut packages: Vec<&str> = module.programs.iter().map(|(_, p)| *p).collect();
            tools.sort_unstable();
            packages.sort_unstable();
            assert_eq!(tools, packages);
        }
    }

    #[test]
    fn programs_know_the_version_that_go_mod_asks_for() {
        let text = "require (\n\tk8s.io/kubernetes v1.36.3\n\tk8s.io/api v0.36.3\n)\n";
        let stamps = kubernetes_stamps(text).unwrap();
        assert!(stamps.contains(&"k8s.io/component-base/version.gitVersion=v1.36.3".to_owned()));
        assert!(stamps.contains(&"k8s.io/component-base/version.gitMinor=36".to_owned()));
        let text = "require helm.sh/helm/v3 v3.22.0\n\nrequire (\n\tk8s.io/client-go v0.36.3 // indirect\n)\n";
        let stamps = helm_stamps(text).unwrap();
        assert!(stamps.contains(&"helm.sh/helm/v3/internal/version.version=v3.22.0".to_owned()));
        assert!(stamps.contains(&"helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=36".to_owned()));
        assert!(helm_stamps("").is_err());
        for module in MODULES {
            (module.stamps)(&go_mod(module)).expect(module.folder);
        }
    }

    #[test]
    fn programs_that_a_developer_has_already_are_not_built() {
        // All of interop's, in a folder that is not theirs.
        let folder = env::temp_dir().join(format!("fairway-xtask-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let module = MODULES.iter().find(|m| m.folder == "interop").unwrap();
        for (name, _) in module.programs {
            fs::write(folder.join(name), "").unwrap();
        }
        let outcome = built(module, Path::new("/nowhere"), Some(&folder));
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(outcome, Ok(None));
    }

    #[test]
    fn a_build_that_hangs_or_fails_says_so() {
        let mut said = Vec::new();
        let mut told = |line: &str| said.push(line.to_owned());
        let mut slow = Command::new("sleep");
        let outcome = compile(slow.arg("1000"), Duration::ZERO, &mut told);
        assert_eq!(outcome, Err("go build took more than 0 s".to_owned()));
        let mut fails = Command::new("sh");
        fails.args([
            "-c",
            "echo a/package >&2; echo '# b: no such thing' >&2; exit 1",
        ]);
        assert!(compile(&mut fails, LIMIT, &mut told).is_err());
        assert_eq!(said, ["# b: no such thing"]);
    }
}
