//! The numbers that criu leaves in `stats-dump`.
//!
//! The file begins with two magic numbers and the length of one protobuf message, `StatsEntry` of CRIU's
//! images/stats.proto: field 1 is what was dumped, and in there field 1 is the time it took to stop the tree and field 2
//! the time for which it was stopped, both in microseconds. Only these are read, so this is not worth a dependency.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

const MAGIC: [u32; 2] = [0x5510_5940, 0x5709_3306];

/// What `stats-dump` says about the freeze.
#[derive(Debug, PartialEq, Eq)]
pub struct DumpStats {
    /// How long it took to stop every task.
    pub freezing_time_us: u64,
    /// How long the tree stood still.
    pub frozen_time_us: u64,
}

impl DumpStats {
    /// Reads `stats-dump` of an image directory.
    pub fn read(directory: &Path) -> Result<DumpStats> {
        let path = directory.join("stats-dump");
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        decode(&bytes).with_context(|| format!("cannot make sense of {}", path.display()))
    }
}

fn decode(bytes: &[u8]) -> Result<DumpStats> {
    let word = |index: usize| -> Option<u32> {
        let bytes = bytes.get(index * 4..index * 4 + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    if [word(0), word(1)] != MAGIC.map(Some) {
        bail!("not a stats image");
    }
    let length = word(2).context("cut short")? as usize;
    let message = bytes.get(12..12 + length).context("cut short")?;
    let Some(Value::Bytes(dump)) = field(message, 1)? else {
        bail!("no statistics of a dump");
    };
    let number = |wanted| match field(dump, wanted)? {
        Some(Value::Number(number)) => Ok(number),
        _ => bail!("field {wanted} is missing"),
    };
    Ok(DumpStats {
        freezing_time_us: number(1)?,
        frozen_time_us: number(2)?,
    })
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The field with number `wanted` of a protobuf message; only the two wire types that occur are known.
fn field(mut message: &[u8], wanted: u64) -> Result<Option<Value<'_>>> {
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut message)?),
            2 => {
                let length = usize::try_from(varint(&mut message)?).context("too long")?;
                let (bytes, rest) = message.split_at_checked(length).context("cut short")?;
                message = rest;
                Value::Bytes(bytes)
            }
            other => bail!("wire type {other} is not expected here"),
        };
        if key >> 3 == wanted {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

fn varint(message: &mut &[u8]) -> Result<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = message.split_first().context("cut short")?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    bail!("a number is too long")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(message: &[u8]) -> Vec<u8> {
        let mut bytes: Vec<u8> = MAGIC.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend((message.len() as u32).to_le_bytes());
        bytes.extend(message);
        bytes
    }

    #[test]
    fn both_times_are_found() {
        // { 1: { 1: 300, 2: 5, 3: 7 } }
        let bytes = image(&[0x0a, 7, 0x08, 0xac, 0x02, 0x10, 5, 0x18, 7]);
        let expected = DumpStats {
            freezing_time_us: 300,
            frozen_time_us: 5,
        };
        assert_eq!(decode(&bytes).unwrap(), expected);
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn anything_else_is_an_error() {
        assert!(decode(b"not an image at all").is_err());
        assert!(decode(&image(&[])).is_err());
        assert!(decode(&image(&[0x12, 0])).is_err());
        assert!(decode(&image(&[0x0a, 2, 0x08, 1])).is_err());
        assert!(decode(&image(&[0xff; 16])).is_err());
    }
}
