//! A limit on bytes a second.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Makes whoever takes bytes wait, so that all together take no more than a rate.
pub(super) struct Pace(Option<(Instant, Mutex<Bucket>)>);

/// Time that the bytes taken so far need at the rate.
struct Bucket {
    bytes_per_second: f64,
    /// When the last of them is due, since the beginning.
    due: Duration,
}

impl Bucket {
    /// Takes `n` bytes at `now`; gives how long to wait. Time in which nothing was taken is not made up for.
    fn take(&mut self, now: Duration, n: u64) -> Duration {
        self.due = self.due.max(now) + Duration::from_secs_f64(n as f64 / self.bytes_per_second);
        self.due - now
    }
}

impl Pace {
    /// No more than `bytes_per_second`, if there is a limit.
    pub(super) fn new(bytes_per_second: Option<u64>) -> Pace {
        Pace(bytes_per_second.map(|rate| {
            let bucket = Bucket { bytes_per_second: rate.max(1) as f64, due: Duration::ZERO };
            (Instant::now(), Mutex::new(bucket))
        }))
    }

    /// Takes `n` bytes.
    pub(super) async fn take(&self, n: usize) {
        if let Some((start, bucket)) = &self.0 {
            let wait = bucket.lock().expect("nothing panics with it").take(start.elapsed(), n as u64);
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_rate() {
        let mut bucket = Bucket { bytes_per_second: 1000.0, due: Duration::ZERO };
        let second = Duration::from_secs(1);
        assert_eq!(bucket.take(Duration::ZERO, 1000), second);
        assert_eq!(bucket.take(Duration::ZERO, 500), second * 3 / 2);
        assert_eq!(bucket.take(second, 500), second);
        assert_eq!(bucket.take(second * 100, 1000), second);
    }
}
