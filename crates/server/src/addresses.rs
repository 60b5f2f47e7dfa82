//! How much one address may take: open connections and handshakes per second, in a table that shrinks.
//!
//! Behind a proxy the address is the last one of `X-Forwarded-For` that is not itself a trusted proxy; of a stranger
//! the header is not believed.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;

/// How long handshakes are counted before the count begins anew.
const WINDOW: Duration = Duration::from_secs(1);

/// What one address may take; 0 is no limit. Addresses of IPv6 count by their first 64 bits, which is what one
/// customer of a network has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressLimits {
    /// Open connections (`limits.max_connections_per_address`).
    pub connections_max: u32,
    /// Handshakes in one second (`limits.max_handshakes_per_second_per_address`).
    pub handshakes_per_second_max: u32,
}

impl Default for AddressLimits {
    fn default() -> Self {
        AddressLimits { connections_max: 10_000, handshakes_per_second_max: 1_000 }
    }
}

/// One address wants more than it may have. The text names the limit, its value and its setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressLimitReached {
    #[error(
        "too many connections from {address}: {max} are open, and no address may have more \
         (limits.max_connections_per_address = {max}; if this is a proxy, name it in server.trusted_proxies)"
    )]
    Connections { address: IpAddr, max: u32 },
    #[error(
        "too many handshakes from {address}: no address may make more than {max} in a second \
         (limits.max_handshakes_per_second_per_address = {max}; if this is a proxy, name it in \
         server.trusted_proxies)"
    )]
    Handshakes { address: IpAddr, max: u32 },
}

/// Counts addresses against their limits.
pub(crate) struct Addresses {
    limits: AddressLimits,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    entries: HashMap<IpAddr, Entry>,
    swept: Option<Instant>,
}

struct Entry {
    open: u32,
    window: Instant,
    handshakes: u32,
}

/// A connection among those of its address, given back when dropped.
pub(crate) struct Seat {
    addresses: Arc<Addresses>,
    key: IpAddr,
}

impl Addresses {
    pub(crate) fn new(limits: AddressLimits) -> Arc<Self> {
        Arc::new(Addresses { limits, table: Mutex::default() })
    }

    /// Counts a connection that begins with a handshake.
    pub(crate) fn connect(
        self: &Arc<Self>,
        address: IpAddr,
        now: Instant,
    ) -> Result<Seat, AddressLimitReached> {
        let key = key(address);
        let mut table = self.lock();
        let entry = table.entry(key, now);
        self.count_handshake(entry, address)?;
        let max = self.limits.connections_max;
        if max > 0 && entry.open >= max {
            return Err(AddressLimitReached::Connections { address, max });
        }
        entry.open += 1;
        Ok(Seat { addresses: Arc::clone(self), key })
    }

    /// Counts a further handshake on a connection.
    pub(crate) fn handshake(&self, address: IpAddr, now: Instant) -> Result<(), AddressLimitReached> {
        self.count_handshake(self.lock().entry(key(address), now), address)
    }

    fn count_handshake(&self, entry: &mut Entry, address: IpAddr) -> Result<(), AddressLimitReached> {
        let max = self.limits.handshakes_per_second_max;
        if max > 0 && entry.handshakes >= max {
            return Err(AddressLimitReached::Handshakes { address, max });
        }
        entry.handshakes += 1;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Counts are whole at every moment.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The entry of an address, its window begun anew where it is over.
    fn entry(&mut self, key: IpAddr, now: Instant) -> &mut Entry {
        self.sweep(now);
        let entry = self.entries.entry(key).or_insert(Entry { open: 0, window: now, handshakes: 0 });
        if now.saturating_duration_since(entry.window) >= WINDOW {
            (entry.window, entry.handshakes) = (now, 0);
        }
        entry
    }

    /// Forgets who has nothing open and has not been seen for a window; at most once in a window, so that the work
    /// is in proportion to who has come.
    fn sweep(&mut self, now: Instant) {
        let over = |since: Instant| now.saturating_duration_since(since) >= WINDOW;
        if self.swept.is_some_and(|swept| !over(swept)) {
            return;
        }
        self.swept = Some(now);
        self.entries.retain(|_, entry| entry.open > 0 || !over(entry.window));
        if self.entries.capacity() > 4 * self.entries.len() + 64 {
            self.entries.shrink_to(2 * self.entries.len());
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.addresses.lock();
        if let Place::Occupied(mut place) = table.entries.entry(self.key) {
            place.get_mut().open -= 1;
            // Who is kept is kept for the count of handshakes alone.
            if place.get().open == 0 && self.addresses.limits.handshakes_per_second_max == 0 {
                place.remove();
            }
        }
    }
}

fn key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        address @ IpAddr::V4(_) => address,
    }
}

/// A range of addresses, such as `10.0.0.0/8`; a single address is a range of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u32,
}

/// The text is not a range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IP address or a range such as 10.0.0.0/8")]
pub struct NotANetwork(String);

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let refused = || NotANetwork(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u32>().map_err(|_| refused())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| refused())?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(all);
        if bits > all {
            return Err(refused());
        }
        Ok(Network { address, bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.bits)
    }
}

impl Network {
    /// Whether the address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differing = network.to_bits() ^ address.to_bits();
                differing.checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differing = network.to_bits() ^ address.to_bits();
                differing.checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// The client behind a trusted proxy at `proxy`: read from the right, the first address that is no trusted proxy. What
/// is further left anybody may have written.
pub(crate) fn client_of(proxy: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let mut client = proxy;
    let lines: Vec<&str> =
        headers.get_all("x-forwarded-for").iter().map_while(|line| line.to_str().ok()).collect();
    for hop in lines.iter().flat_map(|line| line.split(',')).rev() {
        let Some(address) = hop_address(hop.trim()) else { return client };
        client = address;
        if !trusted.iter().any(|network| network.contains(address)) {
            return client;
        }
    }
    client
}

/// Some proxies write the port, too.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let address = hop.parse().or_else(|_| hop.parse::<SocketAddr>().map(|socket| socket.ip())).ok();
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(connections_max: u32, handshakes_per_second_max: u32) -> Arc<Addresses> {
        Addresses::new(AddressLimits { connections_max, handshakes_per_second_max })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_gets_no_more_connections_than_the_limit_until_one_ends() {
        let (addresses, now) = (addresses(2, 0), Instant::now());
        let first = addresses.connect(ip("192.0.2.1"), now).ok().unwrap();
        let _second = addresses.connect(ip("::ffff:192.0.2.1"), now).ok().unwrap();
        let refused = addresses.connect(ip("192.0.2.1"), now).err().unwrap().to_string();
        assert!(refused.contains("192.0.2.1") && refused.contains("limits.max_connections_per_address = 2"));
        assert!(addresses.connect(ip("192.0.2.2"), now).is_ok(), "others are not concerned");
        drop(first);
        assert!(addresses.connect(ip("192.0.2.1"), now).is_ok());
    }

    #[test]
    fn handshakes_are_counted_by_the_second() {
        let (addresses, now) = (addresses(0, 2), Instant::now());
        drop(addresses.connect(ip("2001:db8::1"), now));
        addresses.handshake(ip("2001:db8::ffff"), now).unwrap();
        let refused = addresses.connect(ip("2001:db8::1"), now).err().unwrap().to_string();
        assert!(refused.contains("limits.max_handshakes_per_second_per_address = 2"), "{refused}");
        assert!(addresses.handshake(ip("2001:db8::1"), now + WINDOW).is_ok());
    }

    #[test]
    fn the_table_forgets_who_is_gone_and_gives_the_memory_back() {
        let (addresses, now) = (addresses(10, 10), Instant::now());
        for number in 0..100_000_u32 {
            drop(addresses.connect(IpAddr::from(number.to_be_bytes()), now));
        }
        let stays = addresses.connect(ip("192.0.2.1"), now + WINDOW);
        let table = addresses.lock();
        assert_eq!(table.entries.len(), 1);
        assert!(table.entries.capacity() < 1_000, "{}", table.entries.capacity());
        drop((table, stays));
    }

    proptest::proptest! {
        #[test]
        fn no_header_confuses_the_search_for_the_client(line in proptest::collection::vec(0x20..=0xff_u8, 0..80)) {
            let mut headers = HeaderMap::new();
            if let Ok(value) = http::HeaderValue::from_bytes(&line) {
                headers.append("x-forwarded-for", value);
            }
            let client = client_of(ip("10.0.0.1"), &headers, &["10.0.0.0/8".parse().unwrap()]);
            let named = String::from_utf8_lossy(&line).contains(&client.to_string());
            assert!(named || client == ip("10.0.0.1") || client.is_ipv6(), "{client}");
        }

        #[test]
        fn a_network_that_is_read_is_printed_as_it_is_read(address: IpAddr, bits in 0..=128_u32) {
            if let Ok(network) = format!("{address}/{bits}").parse::<Network>() {
                assert_eq!(network.to_string().parse(), Ok(network));
                assert!(network.contains(address) || address != address.to_canonical());
            }
        }
    }

    #[test]
    fn networks_are_ranges_or_single_addresses() {
        for (network, address, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.1.1.1", true),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "::1", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("::/0", "2001:db8::1", true),
            ("::1", "::2", false),
        ] {
            let parsed: Network = network.parse().unwrap();
            assert_eq!(parsed.contains(ip(address)), inside, "{address} in {network}");
        }
        for text in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "example.com", "10.0.0.0/", "10.0.0.0/-1"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_client_is_the_last_address_that_no_trusted_proxy_has() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        for (lines, client) in [
            (&[][..], "10.0.0.1"),
            (&["198.51.100.1"], "198.51.100.1"),
            (&["192.0.2.66, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
            (&["192.0.2.66", "198.51.100.1:4711"], "198.51.100.1"),
            (&["10.0.0.9, 10.0.0.2"], "10.0.0.9"),
            (&["198.51.100.1, nonsense, 10.0.0.2"], "10.0.0.2"),
            (&["[2001:db8::1]:443"], "2001:db8::1"),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", line.parse().unwrap());
            }
            assert_eq!(client_of(ip("10.0.0.1"), &headers, &trusted), ip(client), "{lines:?}");
        }
    }
}
