//! Named and unnamed namespaces.

use super::*;

/// A name of a namespace that is free again when the test ends, however it ends.
struct Name(String);

impl Name {
    fn new(test: &str) -> Self {
        Self(format!("kl{test}{}", std::process::id()))
    }

    fn path(&self) -> std::path::PathBuf {
        netns::named_path(&self.0).unwrap()
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        netns::remove_named(&self.0).ok();
    }
}

#[test]
fn nothing_of_ours_keeps_a_namespace_alive() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        let bridge = netlink.ensure_bridge(&bridge_spec()).await.unwrap();
        let name = Name::new("pin");
        let container = netns::create_named(&name.0).unwrap();
        netlink
            .create_veth(&veth_spec(&container, &bridge))
            .await
            .unwrap();
        netns::remove_named(&name.0).unwrap();
        drop(container);
        let deadline = Instant::now() + Duration::from_secs(5);
        while netlink.link("klv1").await.unwrap().is_some() {
            assert!(
                Instant::now() < deadline,
                "the host's end outlives the container"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn named_namespaces_are_those_of_iproute2() {
    let owner = Name::new("name");
    let (name, path) = (&owner.0, owner.path());
    let fd = netns::create_named(name).unwrap();
    assert!(netns::list_named().unwrap().contains(name));
    assert!(run(&format!("ip netns exec {name} ip link show lo")).contains("LOOPBACK"));
    let id = netns::id(&fd).unwrap();
    let by_path = || netns::id(netns::open_path(&path).unwrap()).unwrap();
    assert_eq!(by_path(), id);
    assert_ne!(netns::id(netns::open_current().unwrap()).unwrap(), id);
    let error = netns::create_named(name).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("network namespace {name} already exists")
    );
    assert_eq!(by_path(), id, "untouched");
    netns::remove_named(name).unwrap();
    assert!(!path.exists());
    netns::remove_named(name).unwrap();
}

#[test]
fn what_an_interrupted_creation_left_is_replaced_or_removed() {
    let owner = Name::new("stale");
    let (name, path) = (&owner.0, owner.path());
    fs::create_dir_all(netns::DIRECTORY).unwrap();
    fs::write(&path, "").unwrap();
    assert!(!netns::list_named().unwrap().contains(name));
    netns::create_named(name).unwrap();
    assert!(netns::open_path(&path).is_ok());
    netns::remove_named(name).unwrap();
    fs::write(&path, "").unwrap();
    netns::remove_named(name).unwrap();
    assert!(!path.exists());
}

#[test]
fn an_existing_namespace_can_get_a_name() {
    let owner = Name::new("bind");
    let foreign = anonymous_namespace();
    netns::bind_named(&owner.0, foreign.as_fd()).unwrap();
    let bound = netns::open_path(&owner.path()).unwrap();
    assert_eq!(netns::id(bound).unwrap(), netns::id(&foreign).unwrap());
    netns::remove_named(&owner.0).unwrap();

    let file = fs::File::open("/proc/self/ns/mnt").unwrap();
    let error = netns::bind_named(&owner.0, file.as_fd()).unwrap_err();
    assert!(matches!(error, NetnsError::NotANamespace(_)), "{error}");
    assert!(!owner.path().exists());
}

#[test]
fn a_namespace_whose_own_name_is_unmounted_can_get_another_and_lose_it() {
    let (former, owner) = (Name::new("former"), Name::new("later"));
    drop(netns::create_named(&former.0).unwrap());
    // As a runtime hands it over that gives up meanwhile.
    let foreign = netns::open_path(&former.path()).unwrap();
    netns::remove_named(&former.0).unwrap();
    netns::bind_named(&owner.0, foreign.as_fd()).unwrap();
    let bound = netns::open_path(&owner.path()).unwrap();
    assert_eq!(netns::id(bound).unwrap(), netns::id(&foreign).unwrap());
    netns::remove_named(&owner.0).unwrap();
    assert!(!owner.path().exists());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&owner.0), "{mounts}");
}

#[test]
fn work_inside_a_namespace_leaves_the_caller_where_it_is() {
    let here = netns::id(netns::open_current().unwrap()).unwrap();
    let other = anonymous_namespace();
    let current = || netns::id(netns::open_current().unwrap()).unwrap();
    let there = netns::run_in(other.as_fd(), current).unwrap();
    assert_eq!(there, netns::id(&other).unwrap());
    assert_eq!(current(), here);

    let error = netns::run_in(other.as_fd(), || panic!("on purpose")).unwrap_err();
    assert!(error.to_string().contains("on purpose"), "{error}");
    assert_eq!(current(), here);

    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let there_too = runtime
        .block_on(netns::run_in_async(other, current))
        .unwrap();
    assert_eq!(there_too, there);
    assert!(netns::open_path(Path::new("/proc/self/ns/uts")).is_err());
}
