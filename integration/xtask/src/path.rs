//! Where programs are.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// Where programs are besides `$PATH`: a user's own often lacks the last three, and Go's own
/// installer puts it where no `$PATH` looks.
const FOLDERS: &[&str] = &["/usr/local/go/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"];

/// `$PATH` and [`FOLDERS`], for the programs that are started from here.
pub(crate) fn search_path() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = env::var_os("PATH")
        .map(|path| env::split_paths(&path).collect())
        .unwrap_or_default();
    folders.extend(FOLDERS.iter().map(PathBuf::from));
    folders
}

/// Lets the program and what it starts find what is there.
pub(crate) fn with_path(command: &mut Command) -> &mut Command {
    if let Ok(path) = std::env::join_paths(search_path()) {
        command.env("PATH", path);
    }
    command
}
