//! Starts a new program that takes over from this process: on SIGHUP, where the file of the program was replaced.
//!
//! systemd has nothing of its own for that. Fairway starts its successor itself: so that one is in the same unit and has
//! the same rights, environment and limits, and `MAINPID=` (sd_notify(3)) says that it is the main process when it has
//! taken over. systemd waits for the end of a main process only where that is its own child (`pid_is_my_child` of
//! service.c). So a process in between starts the successor ([`COMMAND`]), and ends at once.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::mpsc::{self, SyncSender};

use anyhow::Context as _;
use rustix::pipe::PipeFlags;

use crate::{kept_signals, systemd};

/// The program of this process.
const PROGRAM: &str = "/proc/self/exe";

/// What the kernel writes behind the name of a file that is gone (proc_pid_exe(5)).
const GONE: &[u8] = b" (deleted)";

/// The command of the process in between. Behind it: the program of the successor, and its arguments.
pub(crate) const COMMAND: &str = "start-successor";

/// The variable that tells a process that it has begun anew, and whether anybody serves. No user sets it.
const ANEW: &str = "_FAIRWAY_BEGUN_ANEW";

/// The flag that a successor is started with.
const FLAG: &str = "--take-over";

/// A thread that starts programs. It keeps the rights that the process began with, for what it starts to have them; other
/// threads give some of them up.
#[derive(Clone, Debug)]
pub(crate) struct Launcher(SyncSender<LaunchOrder>);

/// What the thread is to start.
#[derive(Debug)]
enum LaunchOrder {
    /// A successor, which is that program.
    Successor(PathBuf),
    /// The program of this process, in place of this process. What comes back is why it can't be.
    Again(Anew, SyncSender<io::Error>),
}

/// Why a process begins anew (execve(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Anew {
    /// Another process serves.
    StandsBy,
    /// The other process has been gone for long.
    IsAlone,
}

impl Anew {
    const ALL: [Self; 2] = [Self::StandsBy, Self::IsAlone];

    fn word(self) -> &'static str {
        match self {
            Self::StandsBy => "stands by",
            Self::IsAlone => "is alone",
        }
    }

    /// What this process was told; none: it has not begun anew.
    pub(crate) fn told() -> Option<Self> {
        let word = std::env::var_os(ANEW)?;
        Self::ALL.into_iter().find(|it| word == it.word())
    }
}

impl Launcher {
    /// Starts the thread. To be called before this thread gives up rights.
    ///
    /// # Errors
    /// The system has no more threads.
    pub(crate) fn start() -> io::Result<Self> {
        let (sender, orders) = mpsc::sync_channel(0);
        std::thread::Builder::new()
            .name("fairway-start".to_owned())
            .spawn(move || {
                for order in orders {
                    match order {
                        LaunchOrder::Successor(program) => {
                            launch(&program);
                            // Where it has taken over, this process says nothing more to systemd.
                            systemd::reloaded();
                        }
                        LaunchOrder::Again(anew, failed) => {
                            let mut command = Command::new(PROGRAM);
                            command.args(std::env::args_os().skip(1));
                            command.env(ANEW, anew.word());
                            kept_signals::keep(&mut command);
                            // Whoever has asked waits for it.
                            let _ = failed.send(command.exec());
                        }
                    }
                }
            })?;
        Ok(Self(sender))
    }

    /// Begins anew as the same process, with the same arguments (execve(2)): a container would end with its first
    /// process. Returns only where that fails.
    pub(crate) fn again(&self, anew: Anew) -> io::Error {
        let (failed, error) = mpsc::sync_channel(1);
        // A thread that is gone drops the other end.
        let _ = self.0.send(LaunchOrder::Again(anew, failed));
        let gone = |_| io::Error::other("the thread that starts programs has ended");
        error.recv().unwrap_or_else(gone)
    }

    /// Starts the program that has taken the place of this one's, for it to take over. Returns whether there is one.
    pub(crate) fn start_replaced(&self) -> bool {
        let Some(program) = replaced() else {
            return false;
        };
        systemd::reloading();
        if self.0.try_send(LaunchOrder::Successor(program)).is_err() {
            tracing::info!("told to reload: a new program is taking over already");
        }
        true
    }
}

/// Starts the program and waits for its end: it ends before this process where it can't take over.
fn launch(program: &Path) {
    tracing::info!(program = %program.display(), "the program was replaced: the new one takes over");
    match wait_for_end(program) {
        Ok(()) => tracing::error!("the new program has ended: this process goes on"),
        Err(error) => {
            tracing::error!(%error, "the new program can't be started: this process goes on");
        }
    }
}

/// Starts the program, and waits for its end.
fn wait_for_end(program: &Path) -> io::Result<()> {
    // The successor has the other end as its standard input, and nobody else has it: it closes when that one ends.
    let (alive, input) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let status = Command::new(PROGRAM)
        .arg(COMMAND)
        .arg(program)
        .args(arguments(std::env::args_os().skip(1).collect()))
        // It names the process that systemd's watchdog looks at, which is another one then.
        .env_remove("WATCHDOG_PID")
        .env_remove(ANEW)
        .stdin(input)
        .status()?;
    if !status.success() {
        return Err(io::Error::other(status.to_string()));
    }
    File::from(alive).read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Starts the program that `command` names with its arguments, and does not wait: this process is the one in between.
pub(crate) fn start(command: &[OsString]) -> anyhow::Result<ExitCode> {
    let (program, arguments) = command.split_first().context("no program is named")?;
    let started = Command::new(program).args(arguments).spawn();
    started.with_context(|| program.to_string_lossy().into_owned())?;
    Ok(ExitCode::SUCCESS)
}

/// The arguments of a successor.
fn arguments(mut own: Vec<OsString>) -> Vec<OsString> {
    if !own.iter().any(|argument| argument == FLAG) {
        own.push(FLAG.into());
    }
    own
}

/// The file that is now where the program of this process was; none: it is the same one, or is not there.
fn replaced() -> Option<PathBuf> {
    let own = std::fs::metadata(PROGRAM).ok()?;
    let path = without_mark(std::fs::read_link(PROGRAM).ok()?);
    let there = std::fs::metadata(&path).ok()?;
    let is_same = (own.dev(), own.ino()) == (there.dev(), there.ino());
    (!is_same && there.is_file()).then_some(path)
}

/// The path without the mark that its file is gone.
fn without_mark(path: PathBuf) -> PathBuf {
    match path.as_os_str().as_bytes().strip_suffix(GONE) {
        Some(path) => OsString::from_vec(path.to_vec()).into(),
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_has_the_same_arguments_and_the_flag_once() {
        let words = |text: &str| -> Vec<OsString> { text.split(' ').map(OsString::from).collect() };
        let wanted = words("standalone --state s --take-over");
        assert_eq!(arguments(words("standalone --state s")), wanted);
        assert_eq!(arguments(wanted.clone()), wanted);
    }

    #[test]
    fn the_path_of_a_file_that_is_gone_has_no_mark() {
        for (path, wanted) in [
            ("/usr/bin/fairway (deleted)", "/usr/bin/fairway"),
            ("/usr/bin/fairway", "/usr/bin/fairway"),
        ] {
            assert_eq!(without_mark(path.into()), PathBuf::from(wanted));
        }
    }

    #[test]
    fn a_program_that_is_in_its_place_was_not_replaced() {
        assert_eq!(replaced(), None);
    }
}
