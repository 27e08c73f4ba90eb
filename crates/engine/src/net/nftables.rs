//! The few messages of nf_tables (linux/netfilter/nf_tables.h) that make a table which drops the packets of some
//! connections, and take it away again.
//!
//! The table is of family inet, with a chain at the input and one at the output hook. Each lets marked packets pass, which
//! are our own, and drops what is in one of two sets of connections: source address, source port, destination address,
//! destination port. In the words of nft(8):
//!
//! ```text
//! table inet NAME {
//!     set conns4 { type ipv4_addr . inet_service . ipv4_addr . inet_service; elements = { ... } }
//!     set conns6 { type ipv6_addr . inet_service . ipv6_addr . inet_service; elements = { ... } }
//!     chain input {
//!         type filter hook input priority filter;
//!         meta mark 0xc114 accept
//!         ip saddr . tcp sport . ip daddr . tcp dport @conns4 drop
//!         ip6 saddr . tcp sport . ip6 daddr . tcp dport @conns6 drop
//!     }
//!     chain output { type filter hook output priority filter; ... }
//! }
//! ```
//!
//! Another table turns away who wants to connect: it drops the first segment of a connection (SYN alone) at listening
//! sockets. Whoever sent it sends it again after a second.
//!
//! ```text
//! table inet NAME {
//!     chain input {
//!         type filter hook input priority filter;
//!         meta l4proto tcp ip daddr ADDRESS tcp dport PORT tcp flags & (fin | syn | rst | ack) == syn drop
//!     }
//! }
//! ```

use std::net::{IpAddr, SocketAddr};

use super::netlink::{ACK, APPEND, Attributes, CREATE, EXCLUSIVE, Message, REQUEST};

/// The mark (SO_MARK) of packets that pass; criu's own as well.
pub const MARK: u32 = 0xc114;

/// `NFPROTO_INET`.
const FAMILY_INET: u8 = 1;
/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENTS: u16 = 12;

/// `NF_INET_LOCAL_IN`.
const LOCAL_IN: u32 = 1;
/// `NF_INET_LOCAL_OUT`.
const LOCAL_OUT: u32 = 3;

/// `NFT_REG32_00`, the first of sixteen registers of four bytes.
const FIRST_REGISTER: u32 = 8;
/// `NFT_REG_VERDICT`.
const VERDICT: u32 = 0;

/// How many elements go into one message, whose attributes end at 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 512;

/// Who a table belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// To the netlink socket that makes it (`NFT_TABLE_F_OWNER`): it goes when that is closed, by whatever means.
    WithOwner,
    /// To nobody: it stays until it is deleted.
    UntilDeleted,
}

/// One direction of a connection.
pub type Direction = (SocketAddr, SocketAddr);

/// The messages that make a table which drops `directions`. Addresses of both ends must be of one family.
pub fn create(
    table: &str,
    life: Life,
    directions: &[Direction],
    mut sequence: impl FnMut() -> u32,
) -> Vec<Message> {
    let mut bodies = vec![new_table(table, life)];
    for set in &SETS {
        bodies.push((NEW_SET, CREATE, set.definition(table)));
        let members: Vec<&Direction> = directions
            .iter()
            .filter(|(from, _)| from.is_ipv4() == set.is_ipv4)
            .collect();
        for some in members.chunks(ELEMENTS_PER_MESSAGE) {
            bodies.push((NEW_ELEMENTS, CREATE, set.elements(table, some)));
        }
    }
    for (name, hook) in [("input", LOCAL_IN), ("output", LOCAL_OUT)] {
        bodies.push((NEW_CHAIN, CREATE, chain(table, name, hook)));
        bodies.push((NEW_RULE, CREATE | APPEND, rule(table, name, &pass_marked())));
        for set in &SETS {
            bodies.push((
                NEW_RULE,
                CREATE | APPEND,
                rule(table, name, &set.drop_members()),
            ));
        }
    }
    batch(bodies, &mut sequence)
}

/// Where somebody listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Door {
    /// The address, as it is on the wire; the unspecified one stands for all of its family.
    pub address: SocketAddr,
    /// Whether those of the other family come here as well.
    pub both_families: bool,
}

/// The messages that make a table which turns away whoever wants to connect to one of `doors`.
pub fn shut(
    table: &str,
    life: Life,
    doors: &[Door],
    mut sequence: impl FnMut() -> u32,
) -> Vec<Message> {
    const CHAIN: &str = "input";
    let mut bodies = vec![
        new_table(table, life),
        (NEW_CHAIN, CREATE, chain(table, CHAIN, LOCAL_IN)),
    ];
    for door in doors {
        bodies.push((
            NEW_RULE,
            CREATE | APPEND,
            rule(table, CHAIN, &door.turn_away()),
        ));
    }
    batch(bodies, &mut sequence)
}

/// The messages that delete a table.
pub fn delete(table: &str, mut sequence: impl FnMut() -> u32) -> Vec<Message> {
    let name = Attributes::default().with_text(1, table);
    batch(vec![(DELETE_TABLE, 0, name)], &mut sequence)
}

type Body = (u16, u16, Attributes);

fn new_table(table: &str, life: Life) -> Body {
    const FLAG_OWNER: u32 = 2;
    let flags = match life {
        Life::WithOwner => FLAG_OWNER,
        Life::UntilDeleted => 0,
    };
    let attributes = Attributes::default()
        .with_text(1, table)
        .with_number(2, flags);
    (NEW_TABLE, CREATE | EXCLUSIVE, attributes)
}

/// Frames messages as one transaction; the last of them is acknowledged.
fn batch(bodies: Vec<Body>, sequence: &mut impl FnMut() -> u32) -> Vec<Message> {
    let mut frame = |kind, flags, family, resource: u16, attributes: Vec<u8>| Message {
        kind,
        flags: REQUEST | flags,
        sequence: sequence(),
        payload: [vec![family, 0], resource.to_be_bytes().to_vec(), attributes].concat(),
    };
    let last = bodies.len().saturating_sub(1);
    let mut messages = vec![frame(BATCH_BEGIN, 0, 0, SUBSYSTEM, Vec::new())];
    for (index, (kind, flags, attributes)) in bodies.into_iter().enumerate() {
        let flags = if index == last { flags | ACK } else { flags };
        let kind = SUBSYSTEM << 8 | kind;
        messages.push(frame(kind, flags, FAMILY_INET, 0, attributes.into_bytes()));
    }
    messages.push(frame(BATCH_END, 0, 0, SUBSYSTEM, Vec::new()));
    messages
}

fn chain(table: &str, name: &str, hook: u32) -> Attributes {
    let hook = Attributes::default().with_number(1, hook).with_number(2, 0);
    Attributes::default()
        .with_text(1, table)
        .with_text(3, name)
        .with_nested(4, &hook)
        .with_text(7, "filter")
}

fn rule(table: &str, chain: &str, expressions: &[Expression]) -> Attributes {
    let mut list = Attributes::default();
    for (name, data) in expressions {
        let expression = Attributes::default()
            .with_text(1, name)
            .with_nested(2, data);
        list = list.with_nested(1, &expression);
    }
    Attributes::default()
        .with_text(1, table)
        .with_text(2, chain)
        .with_nested(4, &list)
}

type Expression = (&'static str, Attributes);

/// `NFT_META_MARK`, `NFT_META_NFPROTO` and `NFT_META_L4PROTO`.
const KEY_MARK: u32 = 3;
const KEY_FAMILY: u32 = 15;
const KEY_PROTOCOL: u32 = 16;
/// `NFT_PAYLOAD_NETWORK_HEADER` and `NFT_PAYLOAD_TRANSPORT_HEADER`.
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
/// `NF_DROP` and `NF_ACCEPT`.
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// Something about the packet into a register.
fn meta(key: u32) -> Expression {
    let data = Attributes::default()
        .with_number(1, FIRST_REGISTER)
        .with_number(2, key);
    ("meta", data)
}

/// Bytes of a header into registers.
fn payload(register: u32, header: u32, offset: u32, bytes: u32) -> Expression {
    let data = Attributes::default()
        .with_number(1, register)
        .with_number(2, header)
        .with_number(3, offset)
        .with_number(4, bytes);
    ("payload", data)
}

/// Leaves of the first register, of one byte, only these bits.
fn masked(bits: u8) -> Expression {
    let value = |byte: u8| Attributes::default().with(1, &[byte]);
    let data = Attributes::default()
        .with_number(1, FIRST_REGISTER)
        .with_number(2, FIRST_REGISTER)
        .with_number(3, 1)
        .with_nested(4, &value(bits))
        .with_nested(5, &value(0));
    ("bitwise", data)
}

/// Goes on only if the first register has this value.
fn equals(value: &[u8]) -> Expression {
    let value = Attributes::default().with(1, value);
    let data = Attributes::default()
        .with_number(1, FIRST_REGISTER)
        .with_number(2, 0)
        .with_nested(3, &value);
    ("cmp", data)
}

fn verdict(code: u32) -> Expression {
    let code = Attributes::default().with_number(1, code);
    let value = Attributes::default().with_nested(2, &code);
    let data = Attributes::default()
        .with_number(1, VERDICT)
        .with_nested(2, &value);
    ("immediate", data)
}

/// meta mark 0xc114 accept
fn pass_marked() -> Vec<Expression> {
    vec![meta(KEY_MARK), equals(&MARK.to_ne_bytes()), verdict(ACCEPT)]
}

impl Door {
    /// meta l4proto tcp ip daddr ADDRESS tcp dport PORT tcp flags & (fin | syn | rst | ack) == syn drop
    fn turn_away(&self) -> Vec<Expression> {
        const FLAGS_AT: u32 = 13;
        const FIN: u8 = 0x01;
        const SYN: u8 = 0x02;
        const RST: u8 = 0x04;
        const ACK: u8 = 0x10;
        let set = &SETS[usize::from(self.address.is_ipv6())];
        let mut expressions = vec![meta(KEY_PROTOCOL), equals(&[libc::IPPROTO_TCP as u8])];
        if !self.both_families {
            expressions.extend([meta(KEY_FAMILY), equals(&[set.family])]);
        }
        if !self.address.ip().is_unspecified() {
            expressions.extend([
                payload(
                    FIRST_REGISTER,
                    NETWORK,
                    set.destination_offset,
                    set.address_bytes,
                ),
                equals(&octets(self.address.ip())),
            ]);
        }
        expressions.extend([
            payload(FIRST_REGISTER, TRANSPORT, 2, 2),
            equals(&self.address.port().to_be_bytes()),
            payload(FIRST_REGISTER, TRANSPORT, FLAGS_AT, 1),
            masked(FIN | SYN | RST | ACK),
            equals(&[SYN]),
            verdict(DROP),
        ]);
        expressions
    }
}

/// A set of connections of one family.
struct Set {
    name: &'static str,
    number: u32,
    is_ipv4: bool,
    /// `NFPROTO_*`.
    family: u8,
    /// What nft(8) calls the type of its addresses.
    address_type: u32,
    address_bytes: u32,
    /// Where the addresses are in the header.
    source_offset: u32,
    destination_offset: u32,
}

const SETS: [Set; 2] = [
    Set {
        name: "conns4",
        number: 1,
        is_ipv4: true,
        family: 2,
        address_type: 7,
        address_bytes: 4,
        source_offset: 12,
        destination_offset: 16,
    },
    Set {
        name: "conns6",
        number: 2,
        is_ipv4: false,
        family: 10,
        address_type: 8,
        address_bytes: 16,
        source_offset: 8,
        destination_offset: 24,
    },
];

impl Set {
    fn definition(&self, table: &str) -> Attributes {
        /// What nft(8) calls the type of ports.
        const PORT_TYPE: u32 = 13;
        let types = [self.address_type, PORT_TYPE, self.address_type, PORT_TYPE];
        let key_type = types.iter().fold(0, |all, one| all << 6 | one);
        Attributes::default()
            .with_text(1, table)
            .with_text(2, self.name)
            .with_number(3, 0)
            .with_number(4, key_type)
            .with_number(5, 2 * (self.address_bytes + 4))
            .with_number(10, self.number)
    }

    fn elements(&self, table: &str, members: &[&Direction]) -> Attributes {
        let mut list = Attributes::default();
        for (from, to) in members {
            let value = Attributes::default().with(1, &[key(*from), key(*to)].concat());
            let element = Attributes::default().with_nested(1, &value);
            list = list.with_nested(1, &element);
        }
        Attributes::default()
            .with_text(1, table)
            .with_text(2, self.name)
            .with_nested(3, &list)
            .with_number(4, self.number)
    }

    /// The key of a packet is gathered in registers behind one another, and looked up.
    fn drop_members(&self) -> Vec<Expression> {
        let tcp = libc::IPPROTO_TCP as u8;
        let parts = [
            (NETWORK, self.source_offset, self.address_bytes),
            (TRANSPORT, 0, 2),
            (NETWORK, self.destination_offset, self.address_bytes),
            (TRANSPORT, 2, 2),
        ];
        let mut expressions = vec![
            meta(KEY_FAMILY),
            equals(&[self.family]),
            meta(KEY_PROTOCOL),
            equals(&[tcp]),
        ];
        let mut register = FIRST_REGISTER;
        for (header, offset, bytes) in parts {
            expressions.push(payload(register, header, offset, bytes));
            register += bytes.div_ceil(4);
        }
        let lookup = Attributes::default()
            .with_text(1, self.name)
            .with_number(2, FIRST_REGISTER)
            .with_number(4, self.number);
        expressions.extend([("lookup", lookup), verdict(DROP)]);
        expressions
    }
}

/// Address and port as they come to lie in registers.
fn key(end: SocketAddr) -> Vec<u8> {
    let mut key = octets(end.ip());
    key.extend(end.port().to_be_bytes());
    key.extend([0, 0]);
    key
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(directions: &[Direction]) -> Vec<Message> {
        let mut number = 0;
        create("t", Life::WithOwner, directions, || {
            number += 1;
            number
        })
    }

    #[test]
    fn keys_fill_whole_registers() {
        assert_eq!(
            key("1.2.3.4:258".parse().unwrap()),
            [1, 2, 3, 4, 1, 2, 0, 0]
        );
        assert_eq!(key("[::1]:1".parse().unwrap()).len(), 20);
    }

    #[test]
    fn the_last_message_of_a_batch_is_acknowledged() {
        let messages = messages(&[]);
        let acknowledged: Vec<usize> = (0..messages.len())
            .filter(|&index| messages[index].flags & ACK != 0)
            .collect();
        assert_eq!(acknowledged, [messages.len() - 2]);
        assert_eq!(messages[0].kind, BATCH_BEGIN);
        assert_eq!(messages.last().unwrap().kind, BATCH_END);
    }

    #[test]
    fn doors_are_as_wide_as_their_listeners() {
        let names = |address: &str, both_families| {
            let address = address.parse().unwrap();
            let door = Door {
                address,
                both_families,
            };
            door.turn_away()
                .iter()
                .map(|(name, _)| *name)
                .collect::<Vec<_>>()
                .join(" ")
        };
        let end = "payload cmp payload bitwise cmp immediate";
        assert_eq!(names("[::]:80", true), format!("meta cmp {end}"));
        assert_eq!(
            names("0.0.0.0:80", false),
            format!("meta cmp meta cmp {end}")
        );
        assert_eq!(
            names("[::1]:80", false),
            format!("meta cmp meta cmp payload cmp {end}")
        );
    }

    #[test]
    fn many_connections_fit() {
        let one: Direction = ("[::1]:1".parse().unwrap(), "[::1]:2".parse().unwrap());
        for message in messages(&vec![one; 5000]) {
            assert!(message.payload.len() < usize::from(u16::MAX));
        }
    }
}
