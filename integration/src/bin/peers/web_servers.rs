//! HTTP servers that answer.

use std::fs;
use std::process::Command;

use anyhow::Result;
use fairway_integration::lab::{Host, Process};
use fairway_integration::programs;
use tempfile::TempDir;

use crate::http::{WEB, folders};
use crate::paths::end;

/// nginx as the servers; it ends with this.
pub(crate) struct WebServers {
    process: Process,
    _folder: TempDir,
}

impl Drop for WebServers {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

/// Servers at the port [`WEB`] of all addresses of a host.
pub(crate) fn servers(farm: &Host) -> Result<WebServers> {
    let folder = TempDir::with_prefix("fairway-web-")?;
    let path = folder.path();
    fs::write(path.join("small"), vec![b'x'; 256])?;
    fs::write(path.join("large"), vec![b'x'; 64 << 10])?;
    let shown = path.display();
    let text = format!(
        "daemon off; user root; pid {shown}/nginx.pid; error_log stderr crit;\nworker_processes 2;\n\
         events {{ worker_connections 8000; }}\nhttp {{ {} sendfile on; tcp_nopush on; open_file_cache max=10;\n  \
         server {{ listen {WEB} reuseport backlog=4096; root {shown}; }}\n}}\n",
        folders(path)
    );
    let file = path.join("nginx.conf");
    fs::write(&file, text)?;
    let mut command = Command::new(programs::find("nginx")?);
    command.args(["-e", "stderr", "-c"]).arg(&file);
    command.arg("-p").arg(path);
    Ok(WebServers {
        process: farm.spawn(command)?,
        _folder: folder,
    })
}
