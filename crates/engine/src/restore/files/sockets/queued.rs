//! sk-queues.img: what waits in sockets, of whatever family.

use cryopod_image::criu::SkPacketEntry;
use cryopod_image::{Kind, SetReader};

use crate::error::Result;

/// Calls `take` with each message of the image, and with what reads its contents.
pub fn each(
    set: &SetReader,
    mut take: impl FnMut(&SkPacketEntry, &mut dyn FnMut() -> Result<Vec<u8>>) -> Result<()>,
) -> Result<()> {
    if !set.exists(Kind::SkQueues, None) {
        return Ok(());
    }
    let mut image = set.entries(Kind::SkQueues, None)?;
    while let Some(packet) = image.next_entry::<SkPacketEntry>()? {
        let mut taken = false;
        let mut payload = || {
            taken = true;
            Ok(image.payload(u64::from(packet.length))?)
        };
        take(&packet, &mut payload)?;
        if !taken {
            image.skip_payload(u64::from(packet.length))?;
        }
    }
    Ok(())
}
