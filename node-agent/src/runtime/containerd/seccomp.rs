//! Which system calls a container may make: the usual profile, or one that the node's administrator wrote (runtime-spec
//! config-linux.md, "Seccomp").

use std::path::{Component, Path};

use serde_json::{Value, json};

use crate::runtime::{RuntimeError, Seccomp, Security};

/// A profile is no larger than this, in bytes.
const PROFILE_BYTES_MAX: u64 = 1 << 20;

/// The filter of a container; none: it has none.
pub fn profile(security: &Security, root: &Path) -> Result<Option<Value>, RuntimeError> {
    match &security.seccomp {
        Seccomp::Unconfined => Ok(None),
        Seccomp::Default => Ok(Some(usual(security))),
        Seccomp::Local(path) => local(root, path).map(Some),
    }
}

fn local(root: &Path, path: &str) -> Result<Value, RuntimeError> {
    let invalid = |why: String| RuntimeError::Invalid(format!("seccomp profile {path}: {why}"));
    if path.is_empty() || !Path::new(path).components().all(|c| matches!(c, Component::Normal(_))) {
        return Err(invalid(format!("not a path below {}", root.display())));
    }
    let file = root.join(path);
    let size = file.metadata().map_err(|e| invalid(format!("cannot read {}: {e}", file.display())))?.len();
    if size > PROFILE_BYTES_MAX {
        return Err(invalid(format!("larger than {PROFILE_BYTES_MAX} bytes")));
    }
    let text = std::fs::read(&file).map_err(|e| invalid(e.to_string()))?;
    let profile: Value = serde_json::from_slice(&text).map_err(|e| invalid(e.to_string()))?;
    if profile["defaultAction"].is_string() { Ok(profile) } else { Err(invalid("it has no defaultAction".to_owned())) }
}

/// What no ordinary program lacks; and with a capability, the calls that it is for.
fn usual(security: &Security) -> Value {
    let has = |name: &str| security.privileged || security.add_capabilities.iter().any(|c| c == name || c == "ALL");
    let mut names: Vec<&str> = ALWAYS.split_whitespace().collect();
    for (capability, calls) in WITH_CAPABILITY {
        if has(capability) {
            names.extend(calls.split_whitespace());
        }
    }
    if !security.drop_capabilities.iter().any(|c| c == "SYS_CHROOT" || c == "ALL") || has("SYS_CHROOT") {
        names.push("chroot");
    }
    names.sort_unstable();
    names.dedup();
    let mut calls = vec![json!({ "names": names, "action": "SCMP_ACT_ALLOW" })];
    // Sockets of virtual machines reach the host.
    calls.push(json!({
        "names": ["socket"], "action": "SCMP_ACT_ALLOW",
        "args": [{ "index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_NE" }],
    }));
    for persona in PERSONALITIES {
        calls.push(json!({
            "names": ["personality"], "action": "SCMP_ACT_ALLOW",
            "args": [{ "index": 0, "value": persona, "op": "SCMP_CMP_EQ" }],
        }));
    }
    if !has("SYS_ADMIN") {
        calls.push(json!({
            "names": ["clone"], "action": "SCMP_ACT_ALLOW",
            "args": [{ "index": 0, "value": NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }],
        }));
        // Its flags are in memory, where no filter sees them: libraries fall back to clone.
        calls.push(json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS }));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": libc::EPERM, "architectures": ARCHITECTURES,
        "syscalls": calls,
    })
}

const AF_VSOCK: u64 = 40;
/// `PER_LINUX`, `PER_LINUX32`, both with `UNAME26`, and the question.
const PERSONALITIES: [u64; 5] = [0x0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// The `CLONE_NEW*` flags that make namespaces.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: &[&str] = &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: &[&str] = &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];

const ALWAYS: &str = "
    accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown chown32
    clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep
    clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1
    epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit
    exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2
    fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat
    fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait
    futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid
    getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid
    getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname
    getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1
    inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl
    ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32
    lgetxattr link linkat listen listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat
    lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock
    mlock2 mlockall mmap mmap2 modify_ldt mprotect mq_getsetattr mq_notify mq_open mq_timedreceive
    mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync
    munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open openat openat2 pause pidfd_open
    pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2
    prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6 pselect6_time64 ptrace pwrite64 pwritev
    pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages
    removexattr removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending
    rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
    rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
    sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr
    sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send
    sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid setfsgid32
    setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32
    setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr
    setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall
    socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo
    tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime
    timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill
    truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork
    vmsplice wait4 waitid waitpid write writev
    arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2";

const WITH_CAPABILITY: [(&str, &str); 12] = [
    ("DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount
         open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("SYS_BOOT", "reboot"),
    ("SYS_MODULE", "delete_module init_module finit_module"),
    ("SYS_PACCT", "acct"),
    ("SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("SYS_RAWIO", "iopl ioperm"),
    ("SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("SYS_TTY_CONFIG", "vhangup"),
    ("SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("SYSLOG", "syslog"),
    ("BPF", "bpf"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_goes_by_capabilities() {
        let allowed = |security: &Security| -> Vec<String> {
            let profile = usual(security);
            serde_json::from_value(profile["syscalls"][0]["names"].clone()).unwrap()
        };
        let plain = allowed(&Security::default());
        assert!(plain.iter().any(|c| c == "openat") && !plain.iter().any(|c| c == "mount" || c == "bpf"));
        let admin = Security { add_capabilities: vec!["SYS_ADMIN".to_owned()], ..Security::default() };
        assert!(allowed(&admin).iter().any(|c| c == "mount"));
        assert_eq!(usual(&Security::default())["defaultAction"], "SCMP_ACT_ERRNO");
    }

    #[test]
    fn local_profiles_stay_in_their_folder() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("p.json"), r#"{"defaultAction": "SCMP_ACT_LOG"}"#).unwrap();
        std::fs::write(folder.path().join("bad.json"), "{}").unwrap();
        let of = |path: &str| {
            profile(&Security { seccomp: Seccomp::Local(path.to_owned()), ..Security::default() }, folder.path())
        };
        assert_eq!(of("p.json").unwrap().unwrap()["defaultAction"], "SCMP_ACT_LOG");
        for path in ["", "../x", "/etc/passwd", "bad.json", "none.json"] {
            assert!(of(path).is_err(), "{path}");
        }
    }
}
