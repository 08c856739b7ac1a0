//! What the allocator does with memory that is freed.

/// Much of what the server does for a request is allocating JSON, on whichever thread is free: a fifth more creates a second
/// than with glibc's, and an agent that is idle keeps half as much. SQLite uses it, too.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What jemalloc is told when the program starts (its `TUNING.md`): pages are given back a second after they are freed,
/// not ten, and threads of one processor share an arena, for each arena keeps pages of its own.
const OPTIONS: [u8; 57] = *b"dirty_decay_ms:1000,muzzy_decay_ms:0,percpu_arena:percpu\0";

// SAFETY: jemalloc looks for a pointer to a C string under this name, and nothing else in the program has it; a reference to an
// array is such a pointer, and the array ends with a zero.
#[unsafe(export_name = "malloc_conf")]
static MALLOC_CONF: &[u8; OPTIONS.len()] = &OPTIONS;

/// Has a thread of the allocator's give pages back: without it that happens while others allocate, which processes that
/// have nothing to do don't. For those that run for long, once they have the namespaces they are to have.
pub fn give_back() {
    let mut on = true;
    // SAFETY: the name is a C string, and the value a bool, of which that many bytes are read; nothing is asked for.
    let error = unsafe {
        tikv_jemalloc_sys::mallctl(
            c"background_thread".as_ptr(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            (&raw mut on).cast(),
            size_of_val(&on),
        )
    };
    if error != 0 {
        let error = std::io::Error::from_raw_os_error(error);
        tracing::debug!(%error, "the allocator has no thread of its own: freed memory is given back late");
    }
}
