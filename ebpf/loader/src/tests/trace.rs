//! Made-up packets through a copy of the programs: what they decide is told, and nothing is left behind.

use nix::sched::{CloneFlags, unshare};
use xebec_ebpf_layout::{MemberKey, RuleKey, ServiceKey, StepKind, TraceStep, verdict};

use super::upgrade::Bpffs;
use super::*;
use crate::{Packet, Tracer};

fn kinds(steps: &[TraceStep]) -> Vec<StepKind> {
    let kind = |step: &TraceStep| StepKind::ALL.into_iter().find(|kind| *kind as u8 == step.kind).unwrap();
    steps.iter().map(kind).collect()
}

fn run(tracer: &mut Tracer, program: &'static str, frame: &Frame) -> crate::Run {
    tracer.run(program, &Packet { bytes: &frame.bytes(), ..Packet::default() }).unwrap()
}

/// In a network namespace of its own, for it attaches the programs to the loopback interface.
fn apart(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn decisions_are_told_and_leave_nothing_behind() {
    apart(|| {
        let bpffs = Bpffs(tempfile::tempdir().unwrap());
        let (mut datapath, maps) = Datapath::load(bpffs.0.path(), &config()).unwrap();
        datapath.attach_pod("lo", TEST_IFINDEX).unwrap();
        let mut world = World::furnish(datapath, maps);
        let inside = world.service(LB.into(), 80, proto::TCP, SCOPE_CLUSTER, &[(REMOTE_POD, 8_080)]);
        let outside = world.service(LB.into(), 80, proto::TCP, SCOPE_EXTERNAL, &[(REMOTE_POD, 8_080)]);
        let mut tracer = Tracer::load(bpffs.0.path(), &config()).unwrap();
        assert!(tracer.is_attached("pod_egress", "pod-lo").unwrap());
        assert!(!tracer.is_attached("pod_ingress", "pod-lo").unwrap(), "another program");
        assert!(!tracer.is_attached("uplink_ingress", "uplink_ingress").unwrap(), "not attached");

        let to_service = run(&mut tracer, "trace_connect", &Frame::new(POD, LB, L4::syn(40_000, 80)));
        assert_eq!(to_service.verdict, 1);
        assert_eq!(kinds(&to_service.steps), [StepKind::Service, StepKind::Backend]);
        assert_eq!(to_service.steps[0].number, inside);
        assert_eq!((to_service.steps[1].addr, to_service.steps[1].port), (REMOTE_POD.into(), Port::new(8_080)));

        let sent = run(&mut tracer, "pod_egress", &Frame::new(POD, REMOTE_POD, L4::syn(40_000, 8_080)));
        assert_eq!(sent.verdict, REDIRECT);
        assert_eq!(kinds(&sent.steps), [StepKind::NotSelected, StepKind::ToNeighbour]);
        assert_eq!(sent.steps[1].addr, PEER.into());

        let came = run(&mut tracer, "uplink_ingress", &Frame::new(CLIENT, LB, L4::syn(40_000, 80)));
        let expected =
            [StepKind::Service, StepKind::Backend, StepKind::Source, StepKind::Destination, StepKind::ToNeighbour];
        assert_eq!(kinds(&came.steps), expected);
        assert_eq!((came.steps[0].number, came.steps[2].addr), (outside, NODE.into()));
        Frame::parse(&came.bytes).assert_checksums();

        let spoofed = run(&mut tracer, "pod_egress", &Frame::new(OUTSIDE, REMOTE_POD, L4::syn(40_000, 8_080)));
        assert_eq!((spoofed.verdict, spoofed.steps[0].number), (SHOT, DropReason::SpoofedSource as u32));

        assert_eq!(world.flow_kinds(), [0_u8; 0]);
        assert_eq!(world.drops(DropReason::SpoofedSource), 0);
        for id in [inside, outside] {
            assert_eq!(world.maps.service_counters.get(&id).unwrap().unwrap(), ServiceCounters::default());
        }
        assert_eq!(world.maps.sockets.count().unwrap(), 0);
    });
}

#[test]
fn policies_and_affinity_are_told_with_what_they_go_by() {
    const WEB: [u32; 2] = [7, 7];
    const FRIEND: [u32; 2] = [9, 1];
    let bpffs = Bpffs(tempfile::tempdir().unwrap());
    let (datapath, maps) = Datapath::load(bpffs.0.path(), &config()).unwrap();
    let mut world = World::furnish(datapath, maps);
    let pod = world.maps.local_pods.get(&POD.into()).unwrap().unwrap();
    world.maps.local_pods.insert(&POD.into(), &LocalPod { ingress: WEB, ..pod }).unwrap();
    world.maps.identities.insert(&OTHER_POD.into(), &FRIEND).unwrap();
    let rule = RuleKey { set: WEB, identity: FRIEND, proto: proto::TCP, padding: 0, port: Port::new(80) };
    world.maps.rules.insert(rule, RuleKey::EXACT, &verdict::ALLOW).unwrap();
    let mut tracer = Tracer::load(bpffs.0.path(), &config()).unwrap();

    for (port, kind, expected) in [(80, StepKind::Allowed, OK), (81, StepKind::Denied, SHOT)] {
        // As it comes in by another interface, or the node's own packets would pass.
        let frame = Frame::new(OTHER_POD, POD, L4::syn(40_000, port)).bytes();
        let packet = Packet { bytes: &frame, ifindex: TEST_IFINDEX, ingress_ifindex: 9, control: [0; 5] };
        let run = tracer.run("pod_ingress", &packet).unwrap();
        assert_eq!((run.verdict, kinds(&run.steps)[0]), (expected, kind));
        assert_eq!(run.steps[0].addr, Addr([7, 7, 9, 1]));
    }
    assert_eq!(world.maps.connections.count().unwrap(), 0);

    // A client of a service with session affinity: what is known of it is given to the copy.
    let id = world.service(LB.into(), 80, proto::TCP, SCOPE_CLUSTER, &[(POD, 1), (OTHER_POD, 2)]);
    let key = ServiceKey { addr: LB.into(), port: Port::new(80), proto: proto::TCP, scope: SCOPE_CLUSTER };
    let known = world.maps.services.get(&key).unwrap().unwrap();
    let service = Service { flags: service_flags::STICKY, affinity_timeout_s: 10_800, ..known };
    world.maps.services.insert(&key, &service).unwrap();
    for backend in [id, id + 1] {
        world.maps.members.insert(&MemberKey { set: id, backend }, &1).unwrap();
        let client = xebec_ebpf_layout::AffinityKey::local(xebec_ebpf_layout::CLIENT_NAMESPACE, 5, id);
        let met = xebec_ebpf_layout::Affinity { backend, last_seen_s: crate::kernel_clock_s() };
        tracer.affinity.insert(&client, &met).unwrap();
        let frame = Frame::new(POD, LB, L4::syn(40_000, 80)).bytes();
        let packet = Packet { bytes: &frame, control: [1, 0, 5, 0, 0], ..Packet::default() };
        let run = tracer.run("trace_connect", &packet).unwrap();
        assert_eq!(kinds(&run.steps), [StepKind::Service, StepKind::Affinity, StepKind::Backend]);
        assert_eq!(run.steps[2].number, backend);
    }
    assert_eq!(world.maps.affinity.count().unwrap(), 0);
}

#[test]
fn the_answer_to_a_flow_from_outside_is_timed() {
    let mut world = World::new();
    let id = world.service(LB.into(), 80, proto::TCP, SCOPE_EXTERNAL, &[(POD, 8_080)]);
    world.run("uplink_ingress", &Frame::new(CLIENT, LB, L4::syn(40_000, 80)));
    for _ in 0..2 {
        world.run("uplink_egress", &Frame::new(POD, CLIENT, L4::syn_ack(8_080, 40_000)));
    }
    let times = world.maps.service_counters.get(&id).unwrap().unwrap().uplink_times;
    assert_eq!(times.buckets.iter().sum::<u32>(), 1, "only the first answer counts");
    assert!(times.sum_us > 0);
}
