//! What a kubelet is told of the process in a Pod.
//!
//! While a gateway is upgraded there are two Pods in one network, and one process has the admin address: an answer there
//! is that of one Pod for both. A new Pod would be ready before its process is, and the old one be ended too early. So
//! each process has a Unix socket in its own container, and `fairway probe` (an `exec` probe) asks there.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use fairway_config::view::Readiness;

use crate::args::{ProbeArgs, ProbeQuestion};

/// How long one side waits for the other.
const PATIENCE: Duration = Duration::from_secs(2);

/// The longest answer.
const LONGEST: u64 = 1 << 20;

type ReadinessSource = Arc<dyn Fn() -> Readiness + Send + Sync>;

/// The socket that a process answers at, and what it says.
#[derive(Clone)]
pub(crate) struct ProbeSocket(Arc<Mutex<ReadinessSource>>);

impl ProbeSocket {
    /// Answers from now on, on a thread of its own: first that the process starts.
    ///
    /// # Errors
    /// The socket or the thread can't be made.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        let socket = Self(Arc::new(Mutex::new(Arc::new(starting))));
        let answering = socket.clone();
        std::thread::Builder::new()
            .name("fairway-probe".to_owned())
            .spawn(move || {
                for stream in listener.incoming() {
                    // Who does not listen is not waited for; where there are no descriptors, the kubelet asks again.
                    let _ = stream.and_then(|stream| answering.answer(stream));
                }
            })?;
        Ok(socket)
    }

    /// Sets what is answered.
    pub(crate) fn set(&self, answer: impl Fn() -> Readiness + Send + Sync + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(answer);
    }

    fn answer(&self, mut stream: UnixStream) -> io::Result<()> {
        stream.set_write_timeout(Some(PATIENCE))?;
        let answer = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        stream.write_all(&serde_json::to_vec(&answer())?)
    }
}

fn starting() -> Readiness {
    Readiness {
        ready: false,
        missing: vec!["The process starts.".to_owned()],
    }
}

/// Asks the process of this container, and prints what it lacks: 0 where the answer is yes, 1 where it is no.
pub(crate) fn run(args: ProbeArgs) -> anyhow::Result<ExitCode> {
    let path = args.probe_socket;
    let readiness = ask(&path).with_context(|| path.display().to_string())?;
    if args.question == ProbeQuestion::Alive || readiness.ready {
        return Ok(ExitCode::SUCCESS);
    }
    anyhow::bail!("not ready: {}", readiness.missing.join(" "))
}

fn ask(path: &Path) -> anyhow::Result<Readiness> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer)?;
    Ok(serde_json::from_slice(&answer)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_process_says_what_it_lacks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("probe.sock");
        assert!(ask(&path).is_err(), "nobody is there");
        // What a process has left there that is gone.
        drop(UnixListener::bind(&path).unwrap());
        assert!(ask(&path).is_err());
        let socket = ProbeSocket::open(&path).unwrap();
        assert_eq!(ask(&path).unwrap(), starting());
        let well = Readiness {
            ready: true,
            missing: Vec::new(),
        };
        let answer = well.clone();
        socket.set(move || answer.clone());
        // Whoever connects and listens to nothing costs the next one nothing.
        let _silent = UnixStream::connect(&path).unwrap();
        assert_eq!(ask(&path).unwrap(), well);
    }
}
