//! Loads one program of `probe.bpf.c` and attaches it.

use std::fs;
use std::process::Command;
use std::sync::LazyLock;

use aya::maps::{Array, MapData};
use aya::programs::SchedClassifier;
use aya::programs::links::LinkOrder;
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions, TcAttachType};
use aya::{Ebpf, EbpfLoader};

static OBJECT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let directory = tempfile::tempdir().unwrap();
    let object = directory.path().join("probe.bpf.o");
    let include = format!("/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    let source = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/steering_lab/probe.bpf.c"
    );
    let status = Command::new("clang")
        .args([
            "-O2",
            "-g",
            "-target",
            "bpf",
            "-idirafter",
            &include,
            "-c",
            source,
            "-o",
        ])
        .arg(&object)
        .status()
        .unwrap();
    assert!(status.success());
    fs::read(object).unwrap()
});

/// An attached probe; detached on drop.
#[derive(Debug)]
pub struct Probe {
    object: Ebpf,
    /// `None` after `detach`.
    pub link: Option<SchedClassifierLink>,
}

/// What the programs read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Globals {
    pub target: u32,
    pub flags: u32,
    /// Big-endian, as in the packet.
    pub address: u32,
    pub address6: [u32; 4],
}

impl Probe {
    /// Attaches `program` to the ingress of `interface`.
    pub fn ingress(program: &str, interface: &str, globals: Globals) -> Self {
        Self::attach(program, interface, globals, TcAttachType::Ingress)
    }

    pub fn attach(program: &str, interface: &str, globals: Globals, hook: TcAttachType) -> Self {
        let mut object = EbpfLoader::new()
            .override_global("target", &globals.target, true)
            .override_global("flags", &globals.flags, true)
            .override_global("address", &globals.address, true)
            .override_global("address6", &globals.address6, true)
            .load(&OBJECT)
            .unwrap();
        let classifier: &mut SchedClassifier =
            object.program_mut(program).unwrap().try_into().unwrap();
        classifier.load().unwrap();
        let options = TcAttachOptions::TcxOrder(LinkOrder::last());
        let id = classifier
            .attach_with_options(interface, hook, options)
            .unwrap();
        let link = Some(classifier.take_link(id).unwrap());
        Self { object, link }
    }

    /// What the program noted.
    pub fn seen(&self, index: u32) -> u32 {
        let map: Array<&MapData, u32> = self.object.map("seen").unwrap().try_into().unwrap();
        map.get(&index, 0).unwrap()
    }
}
