//! Server-sent events: the reading of frames, and a stream that outlives its connections.

use std::collections::VecDeque;
use std::time::Duration;

use futures::{Stream, stream};
use reqwest::Response;
use uuid::Uuid;

use super::{Client, ClientError};
use crate::types::TaskEvent;

/// The server sends a comment more often than this, so silence means a dead connection.
const SILENCE: Duration = Duration::from_secs(60);
/// Connections in a row that brought nothing before the stream gives up.
const BARREN_CONNECTIONS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// A frame beyond this is not one of ours.
const LONGEST_LINE: usize = 4 << 20;

/// One event as it came.
#[derive(Debug, Default, PartialEq)]
struct Frame {
    id: Option<i64>,
    data: String,
}

/// Collects bytes into frames, by the rules of the HTML standard for `text/event-stream`.
#[derive(Debug, Default)]
struct Frames {
    line: Vec<u8>,
    after_return: bool,
    frame: Frame,
    has_data: bool,
}

impl Frames {
    /// Takes bytes, cut anywhere, and adds the frames that they complete.
    fn feed(&mut self, bytes: &[u8], frames: &mut VecDeque<Frame>) -> Result<(), String> {
        for &byte in bytes {
            let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => self.end_line(frames)?,
                _ => self.line.push(byte),
            }
        }
        if self.line.len() > LONGEST_LINE {
            return Err(format!("a line is longer than {LONGEST_LINE} bytes"));
        }
        Ok(())
    }

    fn end_line(&mut self, frames: &mut VecDeque<Frame>) -> Result<(), String> {
        let line = String::from_utf8(std::mem::take(&mut self.line)).map_err(|error| error.to_string())?;
        if line.is_empty() {
            let frame = std::mem::take(&mut self.frame);
            if std::mem::take(&mut self.has_data) {
                frames.push_back(frame);
            }
            return Ok(());
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.frame.id = value.parse().ok(),
            "data" => {
                if self.has_data {
                    self.frame.data.push('\n');
                }
                self.frame.data.push_str(value);
                self.has_data = true;
            }
            // Comments keep the connection alive; event names and retry times say nothing that we need.
            _ => {}
        }
        Ok(())
    }
}

struct Watch {
    client: Client,
    task: Uuid,
    after: Option<i64>,
    connection: Option<(Response, Frames)>,
    waiting: VecDeque<Frame>,
    /// Whether this connection brought an event.
    fruitful: bool,
    /// Connections in a row on which nothing came.
    barren: u32,
    /// Whether the task was terminal when a connection ended that had brought nothing.
    seen_terminal: bool,
    ended: bool,
}

/// See [`Client::watch`].
pub(super) fn watch(
    client: Client,
    task: Uuid,
    after: Option<i64>,
) -> impl Stream<Item = Result<TaskEvent, ClientError>> {
    let watch = Watch {
        client,
        task,
        after,
        connection: None,
        waiting: VecDeque::new(),
        fruitful: false,
        barren: 0,
        seen_terminal: false,
        ended: false,
    };
    stream::unfold(watch, |mut watch| async move {
        if watch.ended {
            return None;
        }
        let event = watch.next().await.transpose()?;
        watch.ended = match &event {
            Ok(event) => event.status.is_terminal(),
            Err(_) => true,
        };
        Some((event, watch))
    })
}

impl Watch {
    /// The next event; none once the task has ended and nothing is left to tell.
    async fn next(&mut self) -> Result<Option<TaskEvent>, ClientError> {
        loop {
            if let Some(frame) = self.waiting.pop_front() {
                return self.read(frame).map(Some);
            }
            match self.receive().await {
                Ok(true) => {}
                Ok(false) if !self.fruitful && self.is_over().await? => return Ok(None),
                Ok(false) => self.pause().await,
                Err(error) if error.outcome_unknown() && self.barren < BARREN_CONNECTIONS => {
                    self.pause().await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Connects if there is no connection, else takes what comes next. False when the server closed the stream.
    async fn receive(&mut self) -> Result<bool, ClientError> {
        let Some((response, frames)) = &mut self.connection else {
            let response = self.client.open_events(self.task, self.after).await?;
            self.connection = Some((response, Frames::default()));
            self.fruitful = false;
            return Ok(true);
        };
        let address = self.client.address();
        let chunk = tokio::time::timeout(SILENCE, response.chunk())
            .await
            .map_err(|_| ClientError::Timeout { address: address.to_owned() })?
            .map_err(|error| ClientError::transport(address, error))?;
        let Some(bytes) = chunk else { return Ok(false) };
        self.barren = 0;
        frames.feed(&bytes, &mut self.waiting).map_err(|cause| self.unreadable(cause))?;
        Ok(true)
    }

    /// Whether the task had already ended before a connection that brought nothing: then there is nothing left. Seen
    /// once, it may have ended just now, and its last events are asked for again.
    async fn is_over(&mut self) -> Result<bool, ClientError> {
        let before = self.seen_terminal;
        self.seen_terminal = self.client.get_task(self.task).await?.status.is_terminal();
        Ok(before && self.seen_terminal)
    }

    async fn pause(&mut self) {
        self.connection = None;
        tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(self.barren)).await;
        self.barren = (self.barren + 1).min(BARREN_CONNECTIONS);
    }

    fn read(&mut self, frame: Frame) -> Result<TaskEvent, ClientError> {
        let event: TaskEvent = serde_json::from_str(&frame.data).map_err(|error| self.unreadable(error.to_string()))?;
        self.after = frame.id.or(Some(event.entry.seq));
        self.fruitful = true;
        Ok(event)
    }

    fn unreadable(&self, cause: String) -> ClientError {
        ClientError::Decode { what: format!("/v1/tasks/{}/events", self.task), cause }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn frames_are_the_same_wherever_the_bytes_are_cut() {
        let text =
            ": alive\n\nid: 7\r\nevent: x\r\ndata: {\"a\":\r\ndata:1}\r\n\r\nid: 8\ndata: zwölf\n\nid: 9\n\ndata";
        let expected =
            [Frame { id: Some(7), data: "{\"a\":\n1}".to_owned() }, Frame { id: Some(8), data: "zwölf".to_owned() }];
        for size in 1..=text.len() {
            let (mut frames, mut seen) = (Frames::default(), VecDeque::new());
            for piece in text.as_bytes().chunks(size) {
                frames.feed(piece, &mut seen).unwrap();
            }
            assert_eq!(seen, expected, "cut into pieces of {size} bytes");
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut frames = Frames::default();
        assert!(frames.feed(&vec![b'x'; LONGEST_LINE + 1], &mut VecDeque::new()).is_err());
    }
}
