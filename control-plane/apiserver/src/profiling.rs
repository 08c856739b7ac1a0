//! `/debug/pprof/profile?seconds=30`: where the process spends its time, sampled, in the form that `go tool pprof` and its like
//! read (google/pprof `proto/profile.proto`, gzipped). The program's threads are those of everything in it: store, controllers
//! and scheduler are seen as well.
//!
//! Nothing is sampled, and nothing costs anything, unless somebody asks.

mod proto;

use std::collections::HashMap;
use std::ffi::c_int;
use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::Response;
use pprof::{Frames, ProfilerGuardBuilder, Report};
use prost::Message as _;
use xebec_schema::status::Status;

use crate::body::Body;
use crate::query::Query;
use crate::respond;

/// Samples a second and thread, as Go's.
const RATE_HERTZ: c_int = 100;
/// How long it is sampled unless asked otherwise, in seconds.
const USUAL_SECONDS: u64 = 30;
/// A request ends after a minute.
const MOST_SECONDS: u64 = 59;
/// Code that may hold a lock which unwinding needs, where the signal meets it.
const LEFT_ALONE: [&str; 4] = ["libc", "libgcc", "pthread", "vdso"];

const INDEX: &str = "/debug/pprof/\n\n\
    profile: where processor time goes, for ?seconds=30; for `go tool pprof` and its like\n\
    cmdline: the command that the process was started by\n";

/// Serves what is below `/debug/pprof`.
pub(crate) async fn serve(name: &str, query: &Query) -> Result<Response<Body>, Status> {
    match name {
        "" => Ok(respond::raw(200, "text/plain; charset=utf-8", INDEX.as_bytes().to_vec())),
        "cmdline" => {
            let all: Vec<String> = std::env::args().collect();
            Ok(respond::raw(200, "text/plain; charset=utf-8", all.join("\0").into_bytes()))
        }
        "profile" => profile(duration(query)?).await,
        _ => Err(Status::no_such_path()),
    }
}

fn duration(query: &Query) -> Result<Duration, Status> {
    let seconds = match query.get("seconds") {
        "" => USUAL_SECONDS,
        text => text
            .parse()
            .ok()
            .filter(|seconds| *seconds > 0)
            .ok_or_else(|| Status::bad_request(format!("seconds: {text:?} is no number of seconds above 0")))?,
    };
    if seconds > MOST_SECONDS {
        return Err(Status::bad_request(format!(
            "profile duration exceeds server's WriteTimeout: ask for {MOST_SECONDS} seconds or less"
        )));
    }
    Ok(Duration::from_secs(seconds))
}

async fn profile(duration: Duration) -> Result<Response<Body>, Status> {
    let guard = ProfilerGuardBuilder::default()
        .frequency(RATE_HERTZ)
        .blocklist(&LEFT_ALONE)
        .build()
        .map_err(|error| Status::internal(format!("Could not enable CPU profiling: {error}")))?;
    tokio::time::sleep(duration).await;
    // Names are looked up in the program's symbols: that takes a while.
    let made =
        tokio::task::spawn_blocking(move || guard.report().build().map(|report| encode(&report, duration))).await;
    let bytes = match made {
        Ok(Ok(Ok(bytes))) => bytes,
        Ok(Ok(Err(error))) => return Err(Status::internal(format!("cannot compress the profile: {error}"))),
        Ok(Err(error)) => return Err(Status::internal(format!("cannot read the samples: {error}"))),
        Err(error) => return Err(Status::internal(format!("cannot make the profile: {error}"))),
    };
    Ok(respond::raw(200, "application/octet-stream", bytes))
}

fn encode(report: &Report, duration: Duration) -> std::io::Result<Vec<u8>> {
    let mut made = Tables::default().profile(&report.data);
    made.duration_nanos = i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    let since = report.timing.start_time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    made.time_nanos = i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(&made.encode_to_vec())?;
    out.finish()
}

/// What samples refer to by number: from 1 on, but strings, of which the first is empty.
#[derive(Default)]
struct Tables {
    texts: Vec<String>,
    text_ids: HashMap<String, i64>,
    functions: Vec<proto::Function>,
    locations: Vec<proto::Location>,
    /// By function, line.
    location_ids: HashMap<(i64, i64), u64>,
    function_ids: HashMap<i64, u64>,
}

impl Tables {
    fn text(&mut self, text: &str) -> i64 {
        if let Some(known) = self.text_ids.get(text) {
            return *known;
        }
        let id = self.texts.len() as i64;
        self.texts.push(text.to_owned());
        self.text_ids.insert(text.to_owned(), id);
        id
    }

    fn location(&mut self, name: &str, file: &str, line: i64) -> u64 {
        let name = self.text(name);
        if let Some(known) = self.location_ids.get(&(name, line)) {
            return *known;
        }
        let function_id = match self.function_ids.get(&name) {
            Some(known) => *known,
            None => {
                let id = self.functions.len() as u64 + 1;
                let filename = self.text(file);
                self.functions.push(proto::Function { id, name, system_name: name, filename });
                self.function_ids.insert(name, id);
                id
            }
        };
        let id = self.locations.len() as u64 + 1;
        self.locations.push(proto::Location { id, lines: vec![proto::Line { function_id, line }] });
        self.location_ids.insert((name, line), id);
        id
    }

    fn profile(mut self, samples: &HashMap<Frames, isize>) -> proto::Profile {
        const PERIOD_NANOS: i64 = 1_000_000_000 / RATE_HERTZ as i64;
        self.text("");
        let [count, nanoseconds] = [("samples", "count"), ("cpu", "nanoseconds")]
            .map(|(kind, unit)| proto::ValueType { kind: self.text(kind), unit: self.text(unit) });
        let samples = samples.iter().map(|(frames, times)| {
            let symbols = frames.frames.iter().flatten();
            let location_ids =
                symbols.map(|of| self.location(&of.name(), &of.filename(), i64::from(of.lineno()))).collect();
            proto::Sample { location_ids, values: vec![*times as i64, *times as i64 * PERIOD_NANOS] }
        });
        let samples = samples.collect();
        proto::Profile {
            sample_types: vec![count, nanoseconds],
            samples,
            locations: self.locations,
            functions: self.functions,
            texts: self.texts,
            time_nanos: 0,
            duration_nanos: 0,
            period_type: Some(nanoseconds),
            period: PERIOD_NANOS,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use http_body_util::BodyExt as _;

    use super::*;

    #[test]
    fn seconds_are_checked() {
        let of = |text: &str| duration(&Query::parse(Some(text)));
        assert_eq!(of("").unwrap(), Duration::from_secs(30));
        assert_eq!(of("seconds=2").unwrap(), Duration::from_secs(2));
        for bad in ["seconds=0", "seconds=-1", "seconds=x", "seconds=60"] {
            assert_eq!(of(bad).unwrap_err().code, 400, "{bad}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_busy_function_is_in_the_profile() {
        let busy = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let going = busy.clone();
        let worker = std::thread::spawn(move || {
            let mut sum = 0_u64;
            while going.load(std::sync::atomic::Ordering::Relaxed) {
                sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
            }
            sum
        });
        let response = serve("profile", &Query::parse(Some("seconds=1"))).await.unwrap();
        busy.store(false, std::sync::atomic::Ordering::Relaxed);
        worker.join().unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let mut plain = Vec::new();
        GzDecoder::new(&body[..]).read_to_end(&mut plain).unwrap();
        let made = proto::Profile::decode(&plain[..]).unwrap();
        assert_eq!(made.texts[0], "");
        assert!(made.texts.iter().any(|text| text.contains("a_busy_function_is_in_the_profile")), "{:?}", made.texts);
        for sample in &made.samples {
            assert!(sample.location_ids.iter().all(|id| (1..=made.locations.len() as u64).contains(id)));
        }
        assert!(made.duration_nanos == 1_000_000_000 && made.time_nanos > 0);
    }
}
