//! What processes that run for long keep in memory: what is freed, and the program itself.

use std::time::Duration;

/// The start is over after this time, also on a busy machine.
const STARTED: Duration = Duration::from_secs(10);

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
/// have nothing to do don't. For those that run for long.
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

/// Takes out of this process what of the program only its start needed.
pub async fn forget_start() {
    tokio::time::sleep(STARTED).await;
    let let_go = unmap_program();
    tracing::debug!(let_go, "what only the start needed of the program is no longer mapped");
}

/// Takes the program's pages out of this process. Where one is touched the kernel maps sixteen (`fault_around_bytes`), and
/// what is there at the start is mostly never used again; the rest is mapped anew, from the page cache, when it is touched.
///
/// How many bytes of the program may be mapped anew.
fn unmap_program() -> u64 {
    // SAFETY: no preconditions; 0 if there is no such entry.
    let (headers, count) = unsafe { (libc::getauxval(libc::AT_PHDR), libc::getauxval(libc::AT_PHNUM)) };
    if headers == 0 {
        return 0;
    }
    // SAFETY: the kernel mapped the program's headers there, that many, and they stay.
    let headers = unsafe { std::slice::from_raw_parts(headers as *const libc::Elf64_Phdr, count as usize) };
    let Some(own) = headers.iter().find(|h| h.p_type == libc::PT_PHDR) else { return 0 };
    let base = (headers.as_ptr() as u64).wrapping_sub(own.p_vaddr);
    let mut let_go = 0;
    for part in headers.iter().filter(|h| h.p_type == libc::PT_LOAD && h.p_flags & libc::PF_W == 0) {
        let (from, to) = whole_pages(base.wrapping_add(part.p_vaddr), part.p_memsz);
        if from < to {
            // SAFETY: pages of the file that nobody can have written, so that each is the same when it is mapped again.
            let code = unsafe { libc::madvise(from as *mut libc::c_void, (to - from) as usize, libc::MADV_DONTNEED) };
            let_go += if code == 0 { to - from } else { 0 };
        }
    }
    let_go
}

/// The addresses from and to which there are whole pages between `at` and `length` bytes after it.
fn whole_pages(at: u64, length: u64) -> (u64, u64) {
    /// As large as any architecture's; a page too many stays.
    const PAGE: u64 = 64 << 10;
    (at.next_multiple_of(PAGE), (at + length) / PAGE * PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_others_are_left_alone() {
        assert_eq!(whole_pages(0x1_0000, 0x3_0000), (0x1_0000, 0x4_0000));
        assert_eq!(whole_pages(0x1_0001, 0x3_0000), (0x2_0000, 0x4_0000));
        let (from, to) = whole_pages(0x1_0001, 0x2000);
        assert!(from >= to, "nothing is whole");
    }

    #[test]
    fn the_program_goes_on() {
        let program = std::fs::metadata("/proc/self/exe").unwrap().len();
        let let_go = unmap_program();
        // Neither nothing nor more than there is; and this is the program still.
        assert!(let_go > 1 << 20 && let_go < program, "{let_go} of {program} bytes");
    }
}
