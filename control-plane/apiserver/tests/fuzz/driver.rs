//! Makes inputs from a corpus, and watches what becomes of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

/// How many inputs a target gets, if nobody says otherwise.
const RUNS: u64 = 3000;
/// No input is longer.
const MAX_BYTES: usize = 16 << 10;
/// No input takes longer, on a machine that does much else.
const MAX_TIME: Duration = Duration::from_secs(5);

/// Bytes that mean something to one decoder or other.
const WORDS: [&str; 24] = [
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "\\",
    "null",
    "-1",
    "1e999",
    "9223372036854775808",
    "\u{0}",
    "\u{feff}",
    "- ",
    "&a ",
    "*a",
    "!!binary ",
    "$patch",
    "f:",
    "k:{\"a\":1}",
    "%2F",
    "==",
    "k8s\u{0}",
];

/// A small generator of numbers (splitmix64): the same seed gives the same inputs.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `bound`, or 0.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound.max(1) as u64)).unwrap_or_default()
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(target);
    let files = std::fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).expect("a file")).collect()
}

/// Runs a target on its corpus, and on what can be made of it.
pub fn fuzz(target: &str, run: impl Fn(&[u8])) {
    let corpus = corpus(target);
    assert!(!corpus.is_empty(), "{target} has no corpus");
    corpus.iter().for_each(|input| one(target, input, &run));
    let mut numbers = Numbers(number("XEBEC_FUZZ_SEED", 1));
    for _ in 0..number("XEBEC_FUZZ_RUNS", RUNS) {
        let mut input = corpus[numbers.below(corpus.len())].clone();
        for _ in 0..=numbers.below(6) {
            garble(&mut input, &corpus, &mut numbers);
        }
        input.truncate(MAX_BYTES);
        one(target, &input, &run);
    }
}

fn garble(input: &mut Vec<u8>, corpus: &[Vec<u8>], numbers: &mut Numbers) {
    let at = numbers.below(input.len() + 1);
    let end = (at + numbers.below(32)).min(input.len());
    match numbers.below(7) {
        0 if at < input.len() => input[at] ^= 1 << numbers.below(8),
        1 if at < input.len() => input[at] = numbers.next().to_le_bytes()[0],
        2 => drop(input.drain(at..end)),
        3 => {
            let copy = input[at..end].to_vec();
            input.splice(at..at, copy);
        }
        4 => {
            let other = &corpus[numbers.below(corpus.len())];
            let from = numbers.below(other.len() + 1);
            let to = (from + numbers.below(256)).min(other.len());
            input.splice(at..end, other[from..to].iter().copied());
        }
        5 => {
            let word = WORDS[numbers.below(WORDS.len())];
            input.splice(at..at, word.bytes().cycle().take(word.len() * (1 + numbers.below(3))));
        }
        _ => input.truncate(at),
    }
}

fn one(target: &str, input: &[u8], run: impl Fn(&[u8])) {
    let start = Instant::now();
    let ended = catch_unwind(AssertUnwindSafe(|| run(input)));
    let shown = || input.escape_ascii().to_string();
    assert!(ended.is_ok(), "{target} broke on: {}", shown());
    assert!(start.elapsed() < MAX_TIME, "{target} took {:?} on: {}", start.elapsed(), shown());
}
