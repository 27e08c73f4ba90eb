//! Interval timers (`setitimer(2)`) and POSIX timers (`timer_create(2)`).

/// One interval timer: interval and time left.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct ItimerEntry {
    /// Interval, seconds.
    #[prost(uint64, required, tag = "1")]
    pub isec: u64,
    /// Interval, microseconds.
    #[prost(uint64, required, tag = "2")]
    pub iusec: u64,
    /// Time left, seconds.
    #[prost(uint64, required, tag = "3")]
    pub vsec: u64,
    /// Time left, microseconds.
    #[prost(uint64, required, tag = "4")]
    pub vusec: u64,
}

/// One POSIX timer.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct PosixTimerEntry {
    /// The id the process knows it by.
    #[prost(uint32, required, tag = "1")]
    pub it_id: u32,
    /// `CLOCK_*` number.
    #[prost(uint32, required, tag = "2")]
    pub clock_id: u32,
    #[prost(uint32, required, tag = "3")]
    pub si_signo: u32,
    /// `SIGEV_*` number.
    #[prost(uint32, required, tag = "4")]
    pub it_sigev_notify: u32,
    /// Value sent along.
    #[prost(uint64, required, tag = "5")]
    pub sival_ptr: u64,
    /// See `timer_getoverrun(2)`.
    #[prost(uint32, required, tag = "6")]
    pub overrun: u32,
    /// Interval, seconds.
    #[prost(uint64, required, tag = "7")]
    pub isec: u64,
    /// Interval, nanoseconds.
    #[prost(uint64, required, tag = "8")]
    pub insec: u64,
    /// Time left, seconds.
    #[prost(uint64, required, tag = "9")]
    pub vsec: u64,
    /// Time left, nanoseconds.
    #[prost(uint64, required, tag = "10")]
    pub vnsec: u64,
    /// Thread signalled with `SIGEV_THREAD_ID`.
    #[prost(int32, optional, tag = "11")]
    pub notify_thread_id: Option<i32>,
}

/// All timers of a process.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct TaskTimersEntry {
    #[prost(message, required, tag = "1")]
    pub real: ItimerEntry,
    #[prost(message, required, tag = "2")]
    pub virt: ItimerEntry,
    #[prost(message, required, tag = "3")]
    pub prof: ItimerEntry,
    #[prost(message, repeated, tag = "4")]
    pub posix: Vec<PosixTimerEntry>,
}
