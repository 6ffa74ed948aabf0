//! Sends the corpus of malformed and border-case HTTP/1 messages through HAProxy, nginx and Fairway, and prints where they
//! differ, as a page in Markdown. Run it by `cargo xtask bench corpus`.

use anyhow::Result;
use fairway_integration::smuggling::page::page;
use fairway_integration::smuggling::run::CorpusBed;
use fairway_integration::{figures, harness};

fn main() -> Result<()> {
    harness::prepare()?;
    let bed = CorpusBed::start()?;
    let run = bed.run()?;
    print!(
        "# Malformed and border-case messages\n\nMade by `cargo xtask bench corpus` on {}. The requests of \
         [corpus/http1.txt](corpus/http1.txt) go through HAProxy (`mode http`), nginx (`proxy_pass` over HTTP/1.1 with \
         `keepalive`, Host as it came) and Fairway (`appProtocol: http`), all with their defaults, to an endpoint that reads \
         strictly and records what arrives; the answers of [corpus/http1_answers.txt](corpus/http1_answers.txt) come from \
         that endpoint. Shown are those with which the three did not do the same. *wanted* is what RFC 9110 and 9112 ask for, \
         and where they leave a choice (*either*), all is well as long as no request becomes two and nothing malformed \
         arrives. A number alone is a refusal with that status. *malformed at the endpoint*: a lenient server may read \
         it otherwise than the proxy did.\n\n{}",
        figures::today_here(),
        page(&run)
    );
    bed.stop()
}
