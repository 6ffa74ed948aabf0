//! nginx.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::lab::{Host, Process};
use crate::{clients, programs, wait};

/// nginx with a folder of files to download, to which files can be uploaded with PUT.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    folder: TempDir,
}

impl Nginx {
    /// nginx at `at`, taking connections.
    pub fn start(host: &Host, at: SocketAddr) -> Result<Self> {
        Self::with_server(host, at, |path| {
            format!("listen {at}; root {path}/files; dav_methods PUT;")
        })
    }

    /// nginx at `at`, behind PROXY protocol headers: it answers each request with what the header of its connection
    /// said, `CLIENT PORT ADDRESS PORT`, and with the header `X-Forwarded-For` behind that.
    pub fn told(host: &Host, at: SocketAddr) -> Result<Self> {
        Self::with_server(host, at, |_| {
            format!(
                "listen {at} proxy_protocol; location / {{ return 200 \
                 \"$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr \
                 $proxy_protocol_server_port $http_x_forwarded_for\"; }}"
            )
        })
    }

    fn with_server(
        host: &Host,
        at: SocketAddr,
        server: impl Fn(std::path::Display<'_>) -> String,
    ) -> Result<Self> {
        let folder = TempDir::with_prefix("fairway-nginx-")?;
        let path = folder.path().display();
        fs::create_dir(folder.path().join("files"))?;
        let server = server(folder.path().display());
        // One process in the foreground, so that it ends with its handle; `user root` because in a
        // user namespace there is no other.
        let configuration = format!(
            "daemon off; master_process off; user root; pid {path}/pid; error_log stderr;\n\
             events {{}}\n\
             http {{\n\
               access_log off; client_max_body_size 0; client_body_temp_path {path}/body;\n\
               proxy_temp_path {path}/proxy; fastcgi_temp_path {path}/fastcgi;\n\
               uwsgi_temp_path {path}/uwsgi; scgi_temp_path {path}/scgi;\n\
               server {{ {server} }}\n\
             }}\n"
        );
        let file = folder.path().join("nginx.conf");
        fs::write(&file, configuration)?;
        let mut command = Command::new(programs::find("nginx")?);
        command
            .arg("-e")
            .arg("stderr")
            .arg("-c")
            .arg(&file)
            .arg("-p")
            .arg(folder.path());
        let process = host.spawn(command)?;
        wait::until("nginx answers", || {
            host.run(|| clients::connect_tcp(at).is_ok())
        })?;
        Ok(Self { process, folder })
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// A file that it serves as `/NAME`, or has got as that.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("files").join(name)
    }
}

/// nginx's module for TCP and UDP.
pub fn nginx_stream_module() -> Result<String> {
    ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules"]
        .map(|folder| format!("{folder}/ngx_stream_module.so"))
        .into_iter()
        .find(|file| fs::exists(file).unwrap_or(false))
        .context("nginx has no stream module: apt-get install libnginx-mod-stream")
}
