//! Timer descriptors, see `timerfd_create(2)`.

/// A timer descriptor.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct TimerfdEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    #[prost(message, required, tag = "3")]
    pub fown: super::FownEntry,
    /// `CLOCK_*` number.
    #[prost(uint32, required, tag = "4")]
    pub clockid: u32,
    /// Expirations not read yet.
    #[prost(uint64, required, tag = "5")]
    pub ticks: u64,
    /// `TFD_TIMER_*` flags.
    #[prost(uint32, required, tag = "6")]
    pub settime_flags: u32,
    /// Time left, seconds.
    #[prost(uint64, required, tag = "7")]
    pub vsec: u64,
    /// Time left, nanoseconds.
    #[prost(uint64, required, tag = "8")]
    pub vnsec: u64,
    /// Interval, seconds.
    #[prost(uint64, required, tag = "9")]
    pub isec: u64,
    /// Interval, nanoseconds.
    #[prost(uint64, required, tag = "10")]
    pub insec: u64,
}
