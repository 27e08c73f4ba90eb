//! Every message type agrees with criu's definitions, survives a round trip, and decodes nonsense without a panic.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::LazyLock;

use cryopod_image::criu::{CoreEntry, FdTypes, FdinfoEntry, RegFileEntry, SaEntry};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use prost::Message;

use crate::messages::every_message;

/// A message of every type with every field set, made by another implementation.
static GOLDEN: LazyLock<BTreeMap<&str, Vec<u8>>> = LazyLock::new(|| {
    let lines = include_str!("messages.golden")
        .lines()
        .filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, hex)| (name, of_hex(hex)))
        .collect()
});

fn of_hex(hex: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}

/// What every message type can do.
trait Entry: Message + Default + PartialEq + Debug {}

impl<M: Message + Default + PartialEq + Debug> Entry for M {}

/// A field on the wire, of any type.
#[derive(Clone, Debug)]
enum Wire {
    Varint(u64),
    Fixed(u64),
    Bytes(Vec<u8>),
    Message(Vec<(u32, Wire)>),
}

impl Wire {
    fn encode(&self, tag: u32, out: &mut Vec<u8>) {
        let mut key =
            |wire_type: u64| prost::encoding::encode_varint(u64::from(tag) << 3 | wire_type, out);
        match self {
            Wire::Varint(value) => {
                key(0);
                prost::encoding::encode_varint(*value, out);
            }
            Wire::Fixed(value) => {
                key(1);
                out.extend(value.to_le_bytes());
            }
            Wire::Bytes(bytes) => {
                key(2);
                prost::encoding::encode_varint(bytes.len() as u64, out);
                out.extend(bytes);
            }
            Wire::Message(fields) => Wire::Bytes(encode(fields)).encode(tag, out),
        }
    }
}

fn encode(fields: &[(u32, Wire)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (tag, value) in fields {
        value.encode(*tag, &mut out);
    }
    out
}

/// Fields such as messages have. Most are numbers, as in the messages.
fn any_fields() -> impl Strategy<Value = Vec<(u32, Wire)>> {
    let leaf = prop_oneof![
        6 => prop_oneof![0..3_u64, any::<u64>(), any::<u32>().prop_map(u64::from)].prop_map(Wire::Varint),
        1 => any::<u64>().prop_map(Wire::Fixed),
        1 => prop::collection::vec(any::<u8>(), 0..20).prop_map(Wire::Bytes),
        1 => "[a-z/]{0,10}".prop_map(|text| Wire::Bytes(text.into_bytes())),
    ];
    let wire = leaf.prop_recursive(3, 30, 6, |inner| {
        prop::collection::vec((1..24_u32, inner), 0..6).prop_map(Wire::Message)
    });
    let tag = prop_oneof![20 => 1..24_u32, 1 => Just(20001_u32)];
    prop::collection::vec((tag, wire), 0..24)
}

/// Runs a property with few cases, since it is run for every message type. The property is not a type parameter, or
/// most of the time of the tests would go into compiling them.
fn check_property<S: Strategy>(name: &str, strategy: S, property: &dyn Fn(S::Value))
where
    S::Value: Debug,
{
    let config = Config {
        cases: 48,
        failure_persistence: None,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&strategy, |value| {
        property(value);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{name}: {error}"));
}

#[track_caller]
fn assert_round_trip<M: Entry>(message: &M) {
    let bytes = message.encode_to_vec();
    assert_eq!(bytes.len(), message.encoded_len());
    assert_eq!(&M::decode(bytes.as_slice()).unwrap(), message);
}

#[test]
fn every_field_of_every_message_is_as_criu_defines_it() {
    fn check<M: Entry>(name: &str) {
        let bytes = &GOLDEN[name];
        // A field that was missing here, or of another type, would not come out again.
        let message = M::decode(bytes.as_slice()).unwrap();
        assert_eq!(message.encode_to_vec(), *bytes, "{name}");
    }
    every_message!(check);
}

#[test]
fn the_list_of_message_types_and_the_golden_messages_are_the_same() {
    thread_local! {
        static LISTED: RefCell<BTreeSet<&'static str>> = const { RefCell::new(BTreeSet::new()) };
    }
    fn check<M: Entry>(name: &'static str) {
        LISTED.with_borrow_mut(|listed| assert!(listed.insert(name), "{name} is listed twice"));
    }
    every_message!(check);
    LISTED.with_borrow(|listed| assert!(listed.iter().eq(GOLDEN.keys())));
}

#[test]
fn defaults_survive_a_round_trip() {
    fn check<M: Entry>(_name: &str) {
        assert_round_trip(&M::default());
    }
    every_message!(check);
}

#[test]
fn arbitrary_messages_survive_a_round_trip() {
    fn check<M: Entry>(name: &str) {
        // Every field set, then those the type accepts from a random selection set to something else.
        check_property(name, (any_fields(), any::<bool>()), &|(fields, all_set)| {
            let mut bytes = if all_set {
                GOLDEN[name].clone()
            } else {
                Vec::new()
            };
            for field in fields {
                let field = encode(&[field]);
                if M::decode(field.as_slice()).is_ok() {
                    bytes.extend(field);
                }
            }
            assert_round_trip(&M::decode(bytes.as_slice()).unwrap());
        });
    }
    every_message!(check);
}

#[test]
fn arbitrary_bytes_decode_without_a_panic() {
    fn check<M: Entry>(name: &str) {
        check_property(name, prop::collection::vec(any::<u8>(), 0..80), &|bytes| {
            if let Ok(message) = M::decode(bytes.as_slice()) {
                assert_round_trip(&message);
            }
        });
        let damaged = (
            any::<prop::sample::Index>(),
            any::<u8>(),
            any::<prop::sample::Index>(),
        );
        check_property(name, damaged, &|(at, byte, end)| {
            let mut bytes = GOLDEN[name].clone();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes.truncate(end.index(bytes.len()) + 1);
            let _ = M::decode(bytes.as_slice());
        });
    }
    every_message!(check);
}

#[test]
fn required_fields_are_written_even_when_zero() {
    // criu refuses a message without them.
    assert_eq!(
        SaEntry::default().encode_to_vec(),
        [8, 0, 16, 0, 24, 0, 32, 0]
    );
    assert_eq!(
        FdinfoEntry::default().encode_to_vec(),
        [8, 0, 16, 0, 24, 0, 32, 0]
    );
}

#[test]
fn numbers_of_enums_that_are_not_known_survive() {
    let entry = FdinfoEntry {
        r#type: 999,
        ..FdinfoEntry::default()
    };
    assert_round_trip(&entry);
    assert_eq!(FdTypes::try_from(entry.r#type).ok(), None);
}

#[test]
fn paths_need_not_be_utf_8() {
    let entry = RegFileEntry {
        name: vec![b'/', 0xff, 0xfe],
        ..RegFileEntry::default()
    };
    assert_round_trip(&entry);
}

#[test]
fn the_field_of_our_own_is_skipped_by_readers_that_do_not_know_it() {
    /// A core entry as criu knows it, cut down to what the test looks at.
    #[derive(Clone, PartialEq, Message)]
    struct CriuCoreEntry {
        #[prost(int32, required, tag = "1")]
        mtype: i32,
    }
    let entry = CoreEntry {
        mtype: 1,
        cryopod_xstate: Some(vec![7; 832]),
        ..CoreEntry::default()
    };
    assert_round_trip(&entry);
    let bytes = entry.encode_to_vec();
    assert_eq!(
        CriuCoreEntry::decode(bytes.as_slice()).unwrap(),
        CriuCoreEntry { mtype: 1 }
    );
}
