//! How often one client may ask: a token bucket per address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Addresses remembered at most: about 4 MB. Those whose bucket has filled up again are forgotten
/// first.
const MOST_CLIENTS: usize = 65_536;

/// Requests per minute and client. A client that has been quiet may send a minute's worth at once.
pub(super) struct RateLimit {
    per_minute: f64,
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

#[derive(Clone, Copy)]
struct Bucket {
    /// Requests left.
    left: f64,
    at: Instant,
}

impl RateLimit {
    /// 0 requests per minute: no limit.
    pub(crate) fn new(per_minute: u32) -> Self {
        Self {
            per_minute: f64::from(per_minute),
            buckets: Mutex::new(HashMap::new()),
        }
    }

    /// Counts a request that came at `now`.
    ///
    /// # Errors
    /// Where it is one too many: the seconds after which the next one is allowed.
    pub(crate) fn take(&self, client: IpAddr, now: Instant) -> Result<(), u64> {
        if self.per_minute == 0.0 {
            return Ok(());
        }
        let mut buckets = self
            .buckets
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let client = network_of(client);
        if buckets.len() >= MOST_CLIENTS && !buckets.contains_key(&client) {
            self.forget(&mut buckets, now);
        }
        let full = Bucket {
            left: self.per_minute,
            at: now,
        };
        let bucket = buckets.entry(client).or_insert(full);
        bucket.left = self.left(bucket, now);
        bucket.at = now;
        if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            return Ok(());
        }
        let missing = (1.0 - bucket.left) / self.per_minute * 60.0;
        Err((missing.ceil() as u64).max(1))
    }

    fn left(&self, bucket: &Bucket, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.left + passed * self.per_minute / 60.0).min(self.per_minute)
    }

    /// Drops full buckets, which say nothing. If all are in use, the older half goes: a flood from
    /// more addresses than that must not make the table grow.
    fn forget(&self, buckets: &mut HashMap<IpAddr, Bucket>, now: Instant) {
        buckets.retain(|_, bucket| self.left(bucket, now) < self.per_minute);
        if buckets.len() >= MOST_CLIENTS {
            let mut times: Vec<Instant> = buckets.values().map(|bucket| bucket.at).collect();
            let middle = times.len() / 2;
            let (_, &mut middle, _) = times.select_nth_unstable(middle);
            buckets.retain(|_, bucket| bucket.at > middle);
        }
    }
}

/// One household or office has a whole /64 of IPv6 addresses.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let network = u128::from(v6) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
        v4 => v4,
    }
}

/// Time until a queue of this many is probably shorter, for `Retry-After`: half a second each, 1
/// to 30.
pub(super) fn patience(waiting: usize) -> u64 {
    Duration::from_millis(500 * waiting as u64)
        .as_secs()
        .clamp(1, 30)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_minutes_worth_at_once_and_then_one_by_one() {
        let limit = RateLimit::new(6);
        let start = Instant::now();
        let client = address("10.0.0.1");
        for _ in 0..6 {
            assert_eq!(limit.take(client, start), Ok(()));
        }
        assert_eq!(limit.take(client, start), Err(10));
        assert_eq!(limit.take(client, start + Duration::from_secs(4)), Err(6));
        // Somebody else is not affected.
        assert_eq!(limit.take(address("10.0.0.2"), start), Ok(()));
        let later = start + Duration::from_secs(11);
        assert_eq!(limit.take(client, later), Ok(()));
        assert!(limit.take(client, later).is_err());
        // Never more than a minute's worth.
        let much_later = start + Duration::from_secs(3600);
        let allowed = (0..20)
            .filter(|_| limit.take(client, much_later).is_ok())
            .count();
        assert_eq!(allowed, 6);
    }

    #[test]
    fn an_ipv6_network_is_one_client_and_a_mapped_address_is_the_ipv4_one() {
        let limit = RateLimit::new(1);
        let now = Instant::now();
        assert!(limit.take(address("2001:db8::1"), now).is_ok());
        assert!(limit.take(address("2001:db8::ffff:2"), now).is_err());
        assert!(limit.take(address("2001:db8:0:1::1"), now).is_ok());
        assert!(limit.take(address("192.0.2.1"), now).is_ok());
        assert!(limit.take(address("::ffff:192.0.2.1"), now).is_err());
    }

    #[test]
    fn the_table_does_not_grow_without_bound() {
        let limit = RateLimit::new(1);
        let start = Instant::now();
        for i in 0..MOST_CLIENTS as u32 + 10 {
            let client = IpAddr::V4((0x0a00_0000 + i).into());
            let at = start + Duration::from_nanos(u64::from(i));
            assert!(limit.take(client, at).is_ok());
        }
        assert!(limit.buckets.lock().unwrap().len() <= MOST_CLIENTS);
    }

    #[test]
    fn zero_is_no_limit() {
        let limit = RateLimit::new(0);
        let now = Instant::now();
        assert!((0..1000).all(|_| limit.take(address("10.0.0.1"), now).is_ok()));
    }

    #[test]
    fn patience_grows_with_the_queue_and_ends() {
        assert_eq!([0, 4, 100].map(patience), [1, 2, 30]);
    }
}
