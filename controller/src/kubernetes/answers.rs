//! What an answer of the API server says of how busy it is, and requests that are sent again where it
//! was too busy.

use std::time::Duration;

use kube::Error;
use tokio::time::error::Elapsed;

use super::fair_queue::Sign;

/// An answer of the API server, which has to come in time.
pub(super) type Answer<T> = Result<kube::Result<T>, Elapsed>;

/// Sends a request, and sends it again after each of these pauses as long as the API server is too busy
/// for it. Nothing where the request is not to be sent any more.
pub(super) async fn insist<T, F>(pauses: &[Duration], request: impl Fn() -> F) -> Option<Answer<T>>
where
    F: Future<Output = Option<Answer<T>>>,
{
    for pause in pauses {
        let answer = request().await?;
        if !matches!(&answer, Ok(Err(error)) if is_refusal(error)) {
            return Some(answer);
        }
        tokio::time::sleep(*pause).await;
    }
    request().await
}

/// Whether the API server was too busy for a request (429).
pub(super) fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 429)
}

/// What an answer says of how many requests the API server takes.
pub(super) fn sign_of<T>(answer: &Answer<T>) -> Sign {
    match answer {
        Ok(Ok(_)) => Sign::Well,
        Ok(Err(error)) if is_refusal(error) => Sign::Busy,
        Ok(Err(Error::Api(status))) => match status.code {
            400..500 => Sign::Well,
            503 | 504 => Sign::Busy,
            _ => Sign::Neither,
        },
        // No answer is no sign of that: one webhook that hangs is enough. Its namespace is held
        // back by itself.
        Ok(Err(_)) | Err(_) => Sign::Neither,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use kube::core::Status;

    use super::*;

    fn refused<T>(code: u16) -> Answer<T> {
        let status = Status::failure("so it is", "Reason").with_code(code);
        Ok(Err(Error::Api(status.boxed())))
    }

    /// How often a request is sent that is answered with `code` so many times, and whether it came
    /// about.
    async fn tries(code: u16, times: u32) -> (u32, bool) {
        let sent = &AtomicU32::new(0);
        let pauses = [Duration::from_millis(1); 3];
        let answer = insist(&pauses, || async move {
            let n = sent.fetch_add(1, Ordering::Relaxed);
            Some(if n < times { refused(code) } else { Ok(Ok(())) })
        });
        let came_about = matches!(answer.await, Some(Ok(Ok(()))));
        (sent.load(Ordering::Relaxed), came_about)
    }

    #[tokio::test]
    async fn a_request_for_which_the_api_server_is_too_busy_is_sent_again() {
        assert_eq!(tries(429, 2).await, (3, true));
        assert_eq!(tries(429, 9).await, (4, false));
        // What is not allowed stays so.
        assert_eq!(tries(403, 1).await, (1, false));
    }

    #[tokio::test]
    async fn a_request_is_not_sent_again_where_it_is_not_to_be_sent_any_more() {
        let sent = &AtomicU32::new(0);
        let pauses = [Duration::from_millis(1); 3];
        let answer = insist(&pauses, || async move {
            (sent.fetch_add(1, Ordering::Relaxed) == 0).then(|| refused::<()>(429))
        });
        assert!(answer.await.is_none());
        assert_eq!(sent.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn an_answer_that_does_not_come_is_no_sign_of_a_busy_api_server() {
        let late = tokio::time::timeout(Duration::ZERO, std::future::pending()).await;
        let answer: Answer<()> = late;
        assert_eq!(sign_of(&answer), Sign::Neither);
        for (code, sign) in [
            (429, Sign::Busy),
            (503, Sign::Busy),
            (504, Sign::Busy),
            (500, Sign::Neither),
            // That one object is not taken says that there is time for it.
            (422, Sign::Well),
        ] {
            assert_eq!(sign_of::<()>(&refused(code)), sign, "{code}");
        }
    }
}
