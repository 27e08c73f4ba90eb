//! Files that are not in the images because somebody outside provides them on restore.

/// A file provided from outside.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct ExtFileEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(message, required, tag = "5")]
    pub fown: super::FownEntry,
}
