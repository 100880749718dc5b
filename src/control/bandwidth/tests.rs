use super::*;
use crate::api::types::{AttachEndpoint, EndpointReference, Placement, Runtime};
use crate::control::inspect;
use crate::control::test_state::{at, fresh, make, open};

const LIMIT: RateLimit = RateLimit {
    rate: 20_000_000,
    burst: 800_000,
};

fn wants(bandwidth: Bandwidth) -> AttachEndpoint {
    AttachEndpoint {
        owner: Some("cfg".to_owned()),
        bandwidth,
        ..AttachEndpoint::new(Runtime::Cni, "c1", "one")
    }
}

fn reference() -> EndpointReference {
    EndpointReference {
        runtime: Runtime::Cni,
        container: "c1".to_owned(),
        owner: Some("cfg".to_owned()),
        network: Some("one".to_owned()),
        interface: None,
    }
}

#[test]
fn limits_are_kept_with_the_endpoint_and_can_be_changed() {
    let (mut state, memory, paper) = fresh();
    make(&mut state, "one", |_| {}).unwrap();
    let egress = Bandwidth {
        ingress: None,
        egress: Some(LIMIT),
    };
    let attached = state.attach_endpoint(&wants(egress), &|_| true, at(0));
    let container = attached.unwrap().container;
    assert_eq!(container.attachments[0].bandwidth, egress);
    let shown = inspect::container(&state, &container);
    let shown = &shown["NetworkSettings"]["Networks"]["one"]["Bandwidth"];
    let expected = serde_json::json!({"Egress": {"Rate": 20_000_000, "Burst": 800_000}});
    assert_eq!(*shown, expected);
    let ingress = Bandwidth {
        ingress: Some(LIMIT),
        egress: None,
    };
    let mut request = LimitEndpoint {
        endpoint: reference(),
        bandwidth: ingress,
    };
    let (place, former) = state.limit_endpoint(&request).unwrap();
    assert_eq!(former, egress);
    assert_eq!(place.container.attachments[0].bandwidth, ingress);
    // The next daemon knows it.
    let (mut state, _) = open(&memory, &paper);
    request.bandwidth = Bandwidth::default();
    let (place, former) = state.limit_endpoint(&request).unwrap();
    assert_eq!(former, ingress);
    let shown = inspect::container(&state, &place.container);
    let network = &shown["NetworkSettings"]["Networks"]["one"];
    assert!(network["GwPriority"].is_number() && network["Bandwidth"].is_null());
    request.endpoint.container = "c2".to_owned();
    assert!(matches!(
        state.limit_endpoint(&request),
        Err(ControlError::NoSuchEndpoint(_))
    ));
}

#[test]
fn what_would_let_nothing_through_is_refused() {
    let (mut state, memory, _paper) = fresh();
    make(&mut state, "one", |_| {}).unwrap();
    let frame = (1500 + 14) * 8;
    let limit = |rate, burst| Some(RateLimit { rate, burst });
    for (limit, text) in [
        (limit(7, 800_000), "rate 7: give a number of bits from 8 to"),
        (limit(0, 800_000), "rate 0: "),
        (
            limit(1000, frame - 1),
            "burst 12111: give a number of bits from 12112 to 34359738360",
        ),
        (limit(1000, 34_359_738_361), "burst 34359738361: "),
    ] {
        for (direction, bandwidth) in [
            (
                "ingress",
                Bandwidth {
                    ingress: limit,
                    egress: None,
                },
            ),
            (
                "egress",
                Bandwidth {
                    ingress: None,
                    egress: limit,
                },
            ),
        ] {
            let refused = state.attach_endpoint(&wants(bandwidth), &|_| true, at(0));
            let refused = refused.unwrap_err();
            let text = format!("invalid bandwidth.{direction}.{text}");
            assert!(refused.to_string().starts_with(&text), "{refused}");
            assert_eq!(refused.http_status(), 400);
        }
    }
    let limited = |bandwidth| AttachEndpoint {
        placement: Placement::Host,
        ..wants(bandwidth)
    };
    let bandwidth = Bandwidth {
        ingress: limit(1000, frame),
        egress: None,
    };
    let refused = state.attach_endpoint(&limited(bandwidth), &|_| true, at(0));
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("placement \"host\""), "{refused}");
    assert!(memory.records().containers.is_empty());
    assert!(
        state
            .attach_endpoint(&wants(bandwidth), &|_| true, at(0))
            .is_ok()
    );
}
