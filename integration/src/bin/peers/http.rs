//! HTTP: servers that answer, and the peers as proxies of HTTP/1.1 that keep connections to them.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use fairway_integration::lab::{Host, Process};
use fairway_integration::programs;
use fairway_integration::site::server;
use tempfile::TempDir;

use crate::paths::{SERVERS, Way, end};

/// The port of the servers, and of each way to them.
pub(crate) const WEB: u16 = 8080;

/// What is asked for: 256 bytes.
pub(crate) const SMALL: &str = "/small";
/// 64 KiB.
pub(crate) const LARGE: &str = "/large";

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

/// What nginx is told of each of its `http` blocks.
fn folders(path: &Path) -> String {
    let path = path.display();
    format!(
        "access_log off; keepalive_requests 1000000000; client_body_temp_path {path}/body; proxy_temp_path \
         {path}/proxy; fastcgi_temp_path {path}/fastcgi; uwsgi_temp_path {path}/uwsgi; scgi_temp_path {path}/scgi;"
    )
}

/// HAProxy's part.
pub(crate) fn haproxy() -> String {
    let mut text = format!(
        "listen web\n  bind {}:{WEB}\n  mode http\n  option forwardfor\n  http-reuse always\n  \
         timeout http-keep-alive 60s\n",
        Way::HaProxy.address()
    );
    for n in 0..SERVERS {
        text += &format!("  server s{n} {}:{WEB}\n", server(n));
    }
    text
}

/// nginx's part.
pub(crate) fn nginx() -> String {
    let servers: Vec<String> = (0..SERVERS)
        .map(|n| format!("server {}:{WEB};", server(n)))
        .collect();
    format!(
        "http {{ {}\n  upstream web {{ {} keepalive 64; keepalive_requests 1000000000; }}\n  server {{ listen \
         {}:{WEB} reuseport backlog=4096; location / {{ proxy_pass http://web; proxy_http_version 1.1; \
         proxy_set_header Connection \"\"; proxy_set_header X-Forwarded-For $remote_addr; }} }}\n}}\n",
        folders(Path::new(".")),
        servers.join(" "),
        Way::Nginx.address()
    )
}
