//! What a command comes to: its output, and the errors that end with 2.

use std::io::Write as _;
use std::process::ExitCode;

/// The class of errors that end with 2: nothing was tried, because what was asked for can't be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct WrongConfiguration(pub(crate) String);

/// Prints to standard output. A reader that went away (`| head`) is no error.
pub(crate) fn print(text: &str) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}
