//! The language, against what Go and Docker's client print.

use serde_json::json;

use super::*;

fn network() -> Value {
    json!({
        "Name": "net5",
        "Id": "fcf1e422e1e98f8dec7949e4e5297903377baca80b545c06296342a129074ccd",
        "EnableIPv6": false,
        "IPAM": {"Driver": "default", "Options": {}, "Config": [
            {"Subnet": "10.5.0.0/16", "Gateway": "10.5.0.254"}, {"Subnet": "fd00::/64"},
        ]},
        "Internal": true,
        "Containers": {
            "b2": {"Name": "beta", "IPv4Address": "10.5.7.2/16"},
            "a1": {"Name": "alpha", "IPv4Address": "10.5.7.1/16"},
        },
        "Options": {"com.docker.network.bridge.name": "brfive"},
        "Labels": {},
        "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "53/udp": null},
        "Mtu": 1420,
    })
}

fn rendered(text: &str) -> String {
    let template = Template::new(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    template
        .render(&network(), Missing::NoValue)
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn dockers_usual_templates() {
    for (text, expected) in [
        ("{{.Name}}", "net5"),
        ("{{ .Name }} {{.Internal}} {{.Mtu}}", "net5 true 1420"),
        (
            "{{json .IPAM.Config}}",
            r#"[{"Subnet":"10.5.0.0/16","Gateway":"10.5.0.254"},{"Subnet":"fd00::/64"}]"#,
        ),
        ("{{.Name | json}}", r#""net5""#),
        ("{{(index .IPAM.Config 0).Subnet}}", "10.5.0.0/16"),
        ("{{(index (index .Ports \"80/tcp\") 0).HostPort}}", "8080"),
        (
            "{{index .Options \"com.docker.network.bridge.name\"}}",
            "brfive",
        ),
        ("{{index .Options \"nope\"}}{{index .Labels \"nope\"}}", ""),
        (
            "{{range $k, $v := .Containers}}{{$k}}={{$v.Name}} {{end}}",
            "a1=alpha b2=beta ",
        ),
        (
            "{{range .Containers}}{{.Name}}{{println}}{{end}}",
            "alpha\nbeta\n",
        ),
        (
            "{{range $i, $c := .IPAM.Config}}{{if $i}}, {{end}}{{$c.Subnet}}{{end}}",
            "10.5.0.0/16, fd00::/64",
        ),
        (
            "{{range $p, $b := .Ports}}{{$p}}{{range $b}}->{{.HostPort}}{{else}}-{{end}};{{end}}",
            "53/udp-;80/tcp->8080;",
        ),
        ("{{with .Nope}}a{{else}}b{{end}}", "b"),
        ("{{with $x := .Name}}{{$x}}{{.}}{{end}}", "net5net5"),
        (
            "{{if and .Internal (eq .Mtu 1420)}}yes{{else if .Name}}no{{end}}",
            "yes",
        ),
        (
            "{{if not .Internal}}a{{else if eq .Name \"x\" \"net5\"}}b{{else}}c{{end}}",
            "b",
        ),
        ("{{.NetworkSettings.IPAddress}}", "<no value>"),
        (
            "{{printf \"%.12s|%-6s|%06d|%v|%q\" .Id .Name .Mtu .Internal .Name}}",
            "fcf1e422e1e9|net5  |001420|true|\"net5\"",
        ),
        ("{{slice .Id 0 4}}{{len .Containers}}", "fcf12"),
        ("{{join (split .Name \"e\") \"-\"}}", "n-t5"),
        (
            "{{upper .Name}} {{lower \"ABC\"}} {{title \"a bc\"}} {{truncate .Id 3}}",
            "NET5 abc A Bc fcf",
        ),
        ("[{{pad .Name 1 2}}]", "[ net5  ]"),
        (
            "{{$n := .Name}}{{range .IPAM.Config}}{{$n}} {{$.Mtu}};{{end}}",
            "net5 1420;net5 1420;",
        ),
        (
            "{{range .Containers}}{{if eq .Name \"beta\"}}{{break}}{{end}}{{.Name}}{{end}}",
            "alpha",
        ),
        (
            "{{$a := 1}}{{range .IPAM.Config}}{{$a = 2}}{{end}}{{$a}}",
            "2",
        ),
        ("a {{- /* note */ -}} b{{/* more */}} c", "ab c"),
        ("a  {{- .Mtu -}}  b", "a1420b"),
        (
            "{{define \"x\"}}<{{.}}>{{end}}{{template \"x\" .Name}}{{block \"y\" .Mtu}}({{.}}){{end}}",
            "<net5>(1420)",
        ),
        (
            "{{.Labels}} {{.Options}} {{.Ports}}",
            "map[] map[com.docker.network.bridge.name:brfive] map[53/udp:<nil> 80/tcp:[map[HostIp:0.0.0.0 HostPort:8080]]]",
        ),
        (
            "{{print 1 2 \"a\" true}}{{println 1 \"b\"}}",
            "1 2atrue1 b\n",
        ),
        (
            "{{`raw \"}}`}}{{\"\\t\\u00e4}}\"}}{{'a'}}{{-3}}{{1.5}}{{0x10}}",
            "raw \"}}\tä}}97-31.516",
        ),
        ("{{range 3}}{{.}}{{end}}", "012"),
        ("{{or .Nope .Name}}{{and .Nope .Name}}", "net5<no value>"),
        ("{{len .Name | printf \"%d%%\"}}", "4%"),
        (
            "{{lt 1 2}}{{gt .Mtu 1500}}{{le \"a\" \"b\"}}{{ne 1 1}}{{ge 2 2}}",
            "truefalsetruefalsetrue",
        ),
        ("{{html \"<a>\"}}{{urlquery \"a b/c\"}}", "&lt;a&gt;a+b%2Fc"),
        ("{{json .Nope}} {{json .Name}}", "null \"net5\""),
        ("100% }} {", "100% }} {"),
    ] {
        assert_eq!(rendered(text), expected, "{text}");
    }
}

#[test]
fn what_is_wrong_with_a_template_is_one_sentence() {
    for (text, expected) in [
        ("{{.Name", "unclosed action"),
        ("{{nope .Name}}", "function \"nope\" not defined"),
        ("{{if .Name}}", "unexpected EOF"),
        ("{{end}}", "unexpected {{end}}"),
        ("{{else}}", "unexpected {{else}}"),
        ("{{if .A}}{{else}}{{else}}{{end}}", "second {{else}}"),
        ("{{}}", "missing value for command"),
        ("{{if}}{{end}}", "missing value for if"),
        ("{{.Name | }}", "missing value for command"),
        ("{{(.Name}}", "unclosed left paren"),
        ("{{.Name)}}", "unexpected \")\""),
        ("{{\"a}}", "unterminated quoted string"),
        ("{{`a}}", "unterminated raw quoted string"),
        ("{{/* a}}", "unclosed comment"),
        ("{{$x}}", "undefined variable \"$x\""),
        ("{{$x = 1}}", "undefined variable \"$x\""),
        ("{{.Name | 3}}", "non executable command"),
        ("{{break}}", "outside {{range}}"),
        ("{{template \"x\"}}", "template \"x\" not defined"),
        (
            "{{define \"x\"}}{{template \"x\"}}{{end}}{{template \"x\"}}",
            "maximum template depth",
        ),
        (
            "{{.Name.First}}",
            "can't evaluate field First in type string",
        ),
        ("{{.Name 3}}", "cannot be invoked as function"),
        (
            "{{index .IPAM.Config 7}}",
            "error calling index: index out of range: 7",
        ),
        (
            "{{index .Nope 0}}",
            "error calling index: index of untyped nil",
        ),
        ("{{len 3}}", "error calling len"),
        ("{{lower 3}}", "expected string"),
        ("{{eq 1 \"a\"}}", "incompatible types for comparison"),
        ("{{range .Name}}{{end}}", "range can't iterate over net5"),
        ("{{split .Name}}", "wrong number of args for split"),
        ("{{3x}}", "bad number syntax"),
        ("{{#}}", "unexpected '#'"),
        (&"{{if 1}}".repeat(200), "nested too deeply"),
        (&format!("{{{{{}", "(".repeat(100_000)), "unclosed action"),
        (
            &format!("{{{{{}}}}}", "(".repeat(100_000)),
            "nested too deeply",
        ),
    ] {
        let outcome =
            Template::new(text).and_then(|template| template.render(&network(), Missing::NoValue));
        let error = outcome.expect_err(text).to_string();
        assert!(error.starts_with("template parsing error: "), "{error}");
        assert!(error.contains(expected), "{text:.40}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn a_field_that_must_be_there_is_refused_with_those_there_are() {
    let row = json!({"ID": "1", "Name": "a", "Label()": {"x.y-z": "v"}});
    let render = |text: &str| Template::new(text).unwrap().render(&row, Missing::Refuse);
    let error = render("{{.Nmae}}").unwrap_err().to_string();
    assert!(
        error.contains("can't evaluate field Nmae: the fields are .ID .Label .Name"),
        "{error}"
    );
    assert_eq!(
        render("{{.Label \"x.y-z\"}}|{{.Label \"n\"}}").unwrap(),
        "v|"
    );
    assert_eq!(render("{{json .}}").unwrap(), r#"{"ID":"1","Name":"a"}"#);
}

#[test]
fn in_a_header_dockers_functions_leave_titles_alone() {
    let names = json!({"ID": "NETWORK ID", "Name": "NAME", "Label()": {}});
    let header =
        Template::new("{{truncate .ID 3}}\t{{lower .Name}}\t{{.Label \"a.b-c\"}}").unwrap();
    assert_eq!(
        header.render_header(&names).unwrap(),
        "NETWORK ID\tNAME\tb c"
    );
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "[ -~]{0,30}", inner in r#"[-{}().|$a-c"'`,:=0-9 \\]{0,40}"#) {
        for text in [text, format!("{{{{{inner}}}}}"), format!("{{{{range .}}}}{{{{{inner}}}}}{{{{end}}}}")] {
            if let Ok(template) = Template::new(&text) {
                let _ = template.render(&network(), Missing::NoValue);
            }
        }
    }
}
