//! HTTP: the peers as proxies of HTTP/1.1 that keep connections to the servers.

use std::net::IpAddr;
use std::path::Path;

use fairway_integration::site::server;

/// The port of the servers, and of each way to them.
pub(crate) const WEB: u16 = 8080;

/// What is asked for: 256 bytes.
pub(crate) const SMALL: &str = "/small";
/// 64 KiB.
pub(crate) const LARGE: &str = "/large";

/// What nginx is told of each of its `http` blocks.
pub(crate) fn folders(path: &Path) -> String {
    let path = path.display();
    format!(
        "access_log off; keepalive_requests 1000000000; client_body_temp_path {path}/body; proxy_temp_path \
         {path}/proxy; fastcgi_temp_path {path}/fastcgi; uwsgi_temp_path {path}/uwsgi; scgi_temp_path {path}/scgi;"
    )
}

/// HAProxy's part.
pub(crate) fn haproxy(at: IpAddr, servers: u8) -> String {
    let mut text = format!(
        "listen web\n  bind {}:{WEB}\n  mode http\n  option forwardfor\n  http-reuse always\n  \
         timeout http-keep-alive 60s\n",
        at
    );
    for n in 0..servers {
        text += &format!("  server s{n} {}:{WEB}\n", server(n));
    }
    text
}

/// nginx's part.
pub(crate) fn nginx(at: IpAddr, servers: u8) -> String {
    let servers: Vec<String> = (0..servers)
        .map(|n| format!("server {}:{WEB};", server(n)))
        .collect();
    format!(
        "http {{ {}\n  upstream web {{ {} keepalive 64; keepalive_requests 1000000000; }}\n  server {{ listen \
         {}:{WEB} reuseport backlog=4096; location / {{ proxy_pass http://web; proxy_http_version 1.1; \
         proxy_set_header Connection \"\"; proxy_set_header X-Forwarded-For $remote_addr; }} }}\n}}\n",
        folders(Path::new(".")),
        servers.join(" "),
        at
    )
}
