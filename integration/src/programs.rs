//! Where programs are: those of the system, Fairway itself, and the Go programs of the tests.

use std::env;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

static FAIRWAY: OnceLock<PathBuf> = OnceLock::new();
static TOOLS: OnceLock<OsString> = OnceLock::new();

/// Builds what tests start besides the system's programs, where `cargo xtask test` has not said
/// through `FAIRWAY_BIN` and `FAIRWAY_TEST_TOOLS` where it is. Before [`crate::lab::enter`], because
/// building may need the network.
pub fn prepare() -> Result<()> {
    let fairway = match env::var_os("FAIRWAY_BIN") {
        Some(path) => PathBuf::from(path),
        None => built_fairway()?,
    };
    let tools = match env::var_os("FAIRWAY_TEST_TOOLS") {
        Some(folders) => folders,
        None => cargo(&["xtask", "tools"])?.trim().into(),
    };
    let _ = FAIRWAY.set(
        fairway
            .canonicalize()
            .with_context(|| fairway.display().to_string())?,
    );
    let _ = TOOLS.set(tools);
    Ok(())
}

/// The `fairway` program.
pub fn fairway() -> Result<&'static Path> {
    FAIRWAY
        .get()
        .map(PathBuf::as_path)
        .context("programs::prepare was not called")
}

/// One of the Go programs of integration/go: in the first of the folders that has it.
pub fn tool(name: &str) -> Result<PathBuf> {
    let folders = TOOLS.get().context("programs::prepare was not called")?;
    env::split_paths(folders)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| {
            let folders = folders.to_string_lossy();
            format!("{name} is not in {folders}; `cargo xtask tools` builds it")
        })
}

/// A program of the system: in `$PATH`, or where a user's `$PATH` often does not look.
pub fn find(name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not installed; `cargo xtask test` says how to get it"))
}

/// Runs `fairway` with this on its standard input.
pub fn fairway_with_input(arguments: &[&str], input: &[u8]) -> Result<Output> {
    let mut child = Command::new(fairway()?)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("it has an input")?;
    stdin.write_all(input)?;
    drop(stdin);
    Ok(child.wait_with_output()?)
}

/// Builds Fairway in the target directory and profile that this test program was built in.
fn built_fairway() -> Result<PathBuf> {
    // TARGET/PROFILE/deps/NAME-HASH, or TARGET/PROFILE/NAME.
    let own = env::current_exe()?;
    let profile = own
        .ancestors()
        .skip(1)
        .find(|folder| !folder.ends_with("deps"))
        .context("this program is in no folder")?;
    let target = profile
        .parent()
        .context("this program is in no target directory")?;
    let target = target
        .to_str()
        .context("the target directory's name is not UTF-8")?;
    let mut arguments = vec![
        "build",
        "--quiet",
        "--package",
        "fairway",
        "--target-dir",
        target,
    ];
    if profile.ends_with("release") {
        arguments.push("--release");
    }
    cargo(&arguments)?;
    Ok(profile.join("fairway"))
}

fn cargo(arguments: &[&str]) -> Result<String> {
    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()
        .context("cargo can't be run")?;
    if !output.status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    Ok(String::from_utf8(output.stdout)?)
}
