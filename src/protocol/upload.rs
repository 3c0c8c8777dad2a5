//! What a client sends, as larder reads it. On HTTP/2 a stream that drips is found here: of such a connection the watch
//! sees only whether anything moves on it (`server/watch.rs`), and one slow stream can hide behind others.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::runtime::clock::Clock;
use crate::runtime::pace::Pace;

/// What is asked of a client whose body is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Tempo {
    /// Bytes a second, over the window.
    pub bytes: u64,
    pub window: Duration,
}

/// As coarse as the watch is.
const SHORTEST: Duration = Duration::from_secs(1);

/// The body of a request.
pub(super) struct Upload<B> {
    body: B,
    pace: Option<Box<Pace>>,
}

/// Why no more of it comes.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError<E> {
    #[error("{0}")]
    Broken(E),
    #[error("it came too slowly")]
    Slow,
}

impl<B> Upload<B> {
    /// A body whose speed others look after.
    pub fn plain(body: B) -> Upload<B> {
        Upload { body, pace: None }
    }

    pub fn paced(body: B, tempo: Tempo, clock: Arc<dyn Clock>) -> Upload<B> {
        Upload { body, pace: Some(Box::new(Pace::new(clock, tempo.bytes, tempo.window.max(SHORTEST)))) }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Upload<B> {
    type Data = Bytes;
    type Error = UploadError<B::Error>;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError<B::Error>>>> {
        let this = self.get_mut();
        match (Pin::new(&mut this.body).poll_frame(context), &mut this.pace) {
            (Poll::Ready(Some(Ok(frame))), pace) => {
                if let (Some(pace), Some(data)) = (pace, frame.data_ref()) {
                    pace.moved(data.len());
                }
                Poll::Ready(Some(Ok(frame)))
            }
            (Poll::Ready(Some(Err(error))), _) => Poll::Ready(Some(Err(UploadError::Broken(error)))),
            (Poll::Ready(None), _) => Poll::Ready(None),
            (Poll::Pending, None) => Poll::Pending,
            (Poll::Pending, Some(pace)) => pace.poll_stalled(context).map(|()| Some(Err(UploadError::Slow))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};

    use super::*;
    use crate::runtime::clock::TokioClock;

    /// What becomes of an upload of 100 pieces, one every ten seconds.
    async fn upload_of(piece: usize) -> Result<usize, String> {
        let pieces = futures_util::stream::unfold(0, move |sent| async move {
            tokio::time::sleep(Duration::from_secs(10)).await;
            let frame = Frame::data(Bytes::from(vec![0; piece]));
            (sent < 100).then_some((Ok::<_, std::convert::Infallible>(frame), sent + 1))
        });
        let tempo = Tempo { bytes: 1024, window: Duration::from_secs(30) };
        let upload = Upload::paced(StreamBody::new(Box::pin(pieces)), tempo, TokioClock::start());
        upload.collect().await.map(|whole| whole.to_bytes().len()).map_err(|error| error.to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_is_given_up_and_a_slow_one_is_not() {
        assert_eq!(upload_of(1).await, Err("it came too slowly".to_owned()));
        assert_eq!(upload_of(20 << 10).await, Ok(2000 << 10));
    }
}
