//! A check by TCP: something is sent, and something has to stand in the answer.

use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::failure::Failure;

/// So much of an answer is looked at.
const MOST: usize = 16 * 1024;

pub(super) async fn ask(mut stream: TcpStream, send: &[u8], expect: &[u8]) -> Result<(), Failure> {
    // Closed by a reset, as HAProxy does: else the port of each probe would be in TIME-WAIT for a minute.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    if !send.is_empty() {
        let sent = stream.write_all(send).await;
        sent.map_err(|error| Failure::from(format!("what is sent is not taken: {error}")))?;
    }
    if expect.is_empty() {
        return Ok(());
    }
    let mut answer = Vec::with_capacity(1024);
    loop {
        let before = answer.len();
        let read = (&mut stream)
            .take((MOST - before) as u64)
            .read_buf(&mut answer)
            .await;
        match read {
            Err(error) => return Err(format!("reading the answer: {error}").into()),
            Ok(0) if before == 0 => return Err("closed without an answer".into()),
            Ok(0) => return Err("another answer than what is expected".into()),
            Ok(_) => {}
        }
        // What is expected may have begun in what came before.
        let from = before.saturating_sub(expect.len() - 1);
        let new = answer.get(from..).unwrap_or_default();
        if new.windows(expect.len()).any(|it| it == expect) {
            return Ok(());
        }
    }
}
