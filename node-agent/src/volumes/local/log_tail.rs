//! The end of a container's log, which stands in for a termination message (`FallbackToLogsOnError`).

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::streams::written::written;

/// How much of a log stands in for a message (kubelet: `MaxContainerTerminationMessageLogLength`), in bytes.
const TAIL_BYTES: usize = 2048;
/// And how many lines (kubelet: `MaxContainerTerminationMessageLogLines`).
const TAIL_LINES: usize = 80;
/// What the end of a log says, when all of it is there.
pub async fn read(path: &Path) -> String {
    written(path).await;
    text(&tail(path).unwrap_or_default())
}

fn tail(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    // A line's head takes about as much again as a short line's text.
    let want = i64::try_from(4 * TAIL_BYTES).unwrap_or(8192);
    let length = i64::try_from(file.metadata()?.len()).unwrap_or(0);
    file.seek(SeekFrom::End(-want.min(length)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What was said, of lines in the form of container logs (CRI: `TIME STREAM F|P TEXT`).
fn text(bytes: &[u8]) -> String {
    let log = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = log.lines().collect();
    let mut message: String = lines[lines.len().saturating_sub(TAIL_LINES)..]
        .iter()
        .filter_map(|line| {
            let mut fields = line.splitn(4, ' ');
            let (_, _, kind, text) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            Some(if kind == "P" { text.to_owned() } else { format!("{text}\n") })
        })
        .collect();
    if message.len() > TAIL_BYTES {
        let cut = (message.len() - TAIL_BYTES..message.len()).find(|i| message.is_char_boundary(*i));
        message.drain(..cut.unwrap_or(0));
    }
    message
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn a_line_that_is_still_being_written_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = File::create(&path).unwrap();
        log.write_all(b"2026-01-01T00:00:00Z stdout F one\n").unwrap();
        let reading = tokio::spawn({
            let path = path.clone();
            async move { read(&path).await }
        });
        tokio::task::yield_now().await;
        log.write_all(b"2026-01-01T00:00:00Z stdout P DONE\n").unwrap();
        drop(log);
        assert_eq!(reading.await.unwrap(), "one\nDONE");
        assert_eq!(read(&dir.path().join("none")).await, "");
    }

    #[test]
    fn only_the_last_lines_and_bytes_are_told() {
        let line = |i: usize| format!("2026-01-01T00:00:00Z stderr F {i}\n");
        let log: String = (0..100).map(line).collect();
        assert_eq!(text(log.as_bytes()).lines().next(), Some("20"));
        let long = format!("2026-01-01T00:00:00Z stderr F {}\n", "ä".repeat(TAIL_BYTES));
        assert!(text(long.as_bytes()).len() <= TAIL_BYTES);
    }
}
