//! A server that says and hears bytes, and knows nothing of HTTP.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};

use crate::lab::Host;

/// What an [`ExactServer`] is to hear, and to say then.
#[derive(Clone, Debug, Default)]
pub struct ExactPart {
    /// So much has to come, counted in bytes of this text.
    pub hears: Vec<u8>,
    /// Then it says this.
    pub says: Vec<u8>,
    /// And closes its side of the connection.
    pub closes: bool,
}

#[derive(Debug, Default)]
struct Scene {
    parts: Vec<ExactPart>,
    came: Vec<u8>,
    /// How many bytes of `came` belong to parts that were answered.
    answered: usize,
}

/// Hears bytes on any number of connections as one sequence, and answers by a script.
#[derive(Debug)]
pub struct ExactServer {
    scene: Arc<Mutex<Scene>>,
}

impl ExactServer {
    /// Listens at an address of this host, as long as the process lives.
    pub fn start(host: &Host, at: SocketAddr) -> Result<Self> {
        let listener = host.run(|| TcpListener::bind(at));
        let listener = listener.with_context(|| at.to_string())?;
        let scene = Arc::<Mutex<Scene>>::default();
        let shared = scene.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let scene = shared.clone();
                thread::spawn(move || play(stream, &scene));
            }
        });
        Ok(Self { scene })
    }

    /// Forgets what has come, and goes by these parts from now on.
    pub fn expect(&self, parts: Vec<ExactPart>) {
        let mut scene = self.scene.lock().unwrap_or_else(PoisonError::into_inner);
        *scene = Scene {
            parts,
            ..Scene::default()
        };
    }

    /// What has come since.
    pub fn came(&self) -> Vec<u8> {
        let scene = self.scene.lock().unwrap_or_else(PoisonError::into_inner);
        scene.came.clone()
    }
}

fn play(mut stream: TcpStream, scene: &Mutex<Scene>) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(read @ 1..) = stream.read(&mut bytes) {
        let due = {
            let mut scene = scene.lock().unwrap_or_else(PoisonError::into_inner);
            scene
                .came
                .extend_from_slice(bytes.get(..read).unwrap_or_default());
            let mut due = Vec::new();
            while let Some(part) = scene.parts.first()
                && scene.came.len() - scene.answered >= part.hears.len()
            {
                let part = scene.parts.remove(0);
                scene.answered += part.hears.len();
                due.push(part);
            }
            due
        };
        for part in due {
            if stream.write_all(&part.says).is_err() {
                return;
            }
            if part.closes {
                let _ = stream.shutdown(Shutdown::Write);
            }
        }
    }
}
