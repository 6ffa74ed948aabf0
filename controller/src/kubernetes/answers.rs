//! What an answer of the API server says of how busy it is.

use kube::Error;
use tokio::time::error::Elapsed;

use super::fair_queue::Sign;

/// Whether the API server was too busy for a request (429).
pub(super) fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 429)
}

/// What an answer says of how many requests the API server takes.
pub(super) fn sign_of<T>(answer: &Result<kube::Result<T>, Elapsed>) -> Sign {
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
    use std::time::Duration;

    use kube::core::Status;

    use super::*;

    #[tokio::test]
    async fn an_answer_that_does_not_come_is_no_sign_of_a_busy_api_server() {
        let late = tokio::time::timeout(Duration::ZERO, std::future::pending()).await;
        let answer: Result<kube::Result<()>, _> = late;
        assert_eq!(sign_of(&answer), Sign::Neither);
        for (code, sign) in [
            (429, Sign::Busy),
            (503, Sign::Busy),
            (504, Sign::Busy),
            (500, Sign::Neither),
            // That one object is not taken says that there is time for it.
            (422, Sign::Well),
        ] {
            let status = Status::failure("so it is", "Reason").with_code(code);
            let answer: Result<kube::Result<()>, _> = Ok(Err(Error::Api(status.boxed())));
            assert_eq!(sign_of(&answer), sign, "{code}");
        }
    }
}
