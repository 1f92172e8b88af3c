use super::*;
use crate::config::{Cpus, DriverKind, IdlePolicy, MAX_ENGINES, pairs_needed};
use std::net::Ipv4Addr;

const FOUND: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 8, 7));

fn from_file(text: &str) -> Result<Effective, ConfigError> {
    Sources::new().file_text(Path::new("machnet.toml"), text.to_owned()).resolve(|_| Ok(FOUND))
}

fn message(text: &str) -> String {
    from_file(text).unwrap_err().to_string()
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let effective = Sources::new()
        .file_text(
            Path::new("m.toml"),
            "# first\nudp_port = 2000\nlinger_ms = 5\nidle = \"block\"\n".to_owned(),
        )
        .environment([
            ("MACHNET_UDP_PORT".to_owned(), "3000".to_owned()),
            ("MACHNET_LINGER_MS".to_owned(), "6".to_owned()),
            ("HOME".to_owned(), "/".to_owned()),
        ])
        .flags([("udp_port", "4000".to_owned())])
        .resolve(|_| Ok(FOUND))
        .unwrap();
    let origin = |name| effective.origin(Key::find(name).unwrap()).to_string();
    assert_eq!((effective.config.udp_port, origin("udp_port").as_str()), (4000, "flag --udp-port"));
    assert_eq!(
        (effective.config.linger_ms, origin("linger_ms").as_str()),
        (6, "environment variable MACHNET_LINGER_MS")
    );
    assert_eq!((effective.config.idle, origin("idle").as_str()), (IdlePolicy::Block, "m.toml line 4"));
    assert_eq!((effective.config.engines, origin("engines").as_str()), (1, "default"));
    assert_eq!(effective.config.address, FOUND);
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_valid_one() {
    assert_eq!(
        message("linger_ms = 5\n\nudp_prot = 2000\n"),
        "machnet.toml line 3: unknown setting `udp_prot`; did you mean `udp_port`?"
    );
    assert_eq!(
        message("zzz = 1"),
        "machnet.toml line 1: unknown setting `zzz`; `machnet config show` lists all settings"
    );
    assert!(message("[udp]\nport = 3").contains("unknown setting `udp`"));
}

#[test]
fn a_bad_value_is_named_with_key_value_place_and_range() {
    assert_eq!(
        message("udp_port = 70000"),
        "machnet.toml line 1: udp_port = \"70000\" is not allowed: it must be a number from 1024 to 65535"
    );
    assert!(message("udp_port = -1").contains("\"-1\""));
    assert!(message("udp_port = true").contains("\"true\""));
    assert!(message("udp_port = 2000.0").contains("a TOML float"));
    assert!(message("idle = \"sleep\"").contains("one of \"auto\", \"spin\", \"yield\", \"block\""));
    assert!(message("engines = 17").contains("a number from 1 to 16"));
    assert!(message("engines = 0").contains("a number from 1 to 16"));
    assert!(message("udp_ports = \"2000\"").contains("a range of ports"));
    assert!(message("udp_ports = \"2100-2000\"").contains("a range of ports"));
    assert!(message("cpus = [0, -1]").contains("a list of processors"));
    assert!(message("cpus = [0, [1]]").contains("a TOML array"));
    assert!(message("cpus = \"0,x\"").contains("a list of processors"));
    assert!(message("address = \"nowhere\"").contains("an IPv4 address of this host"));
    assert!(message("address = \"0.0.0.0\"").contains("not allowed"));
    assert!(message("socket = \"\"").contains("a path of 1 to 107 bytes"));
}

#[test]
fn a_file_that_is_no_toml_is_named_with_its_line() {
    assert!(message("udp_port = 2000\nidle = = 3\n").starts_with("machnet.toml line 2: "));
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    assert!(message("keepalive_ms = 5000\ndead_after_ms = 5000").contains("must be less than dead_after_ms"));
    assert!(
        message("udp_port = 3000\nudp_ports = \"2000-2100\"").contains("must begin with udp_port = 3000")
    );
    assert!(message("engines = 2\ncpus = [0]").contains("names 1 processors for engines = 2"));
}

#[test]
fn the_range_of_source_ports_is_checked_against_the_formula() {
    for engines in 1..=MAX_ENGINES {
        let needed = engines * u32::from(pairs_needed(engines));
        let with = |count: u32| format!("engines = {engines}\nudp_ports = \"2000-{}\"", 2000 + count - 1);
        let config = from_file(&with(needed)).unwrap().config;
        assert_eq!(
            (config.udp_port, config.udp_ports.map(|ports| ports.len())),
            (2000, Some(needed as usize))
        );
        if engines > 1 {
            assert!(message(&with(needed - 1)).contains(&format!("{needed} are needed")), "{engines}");
        }
    }
}

#[test]
fn processors_are_a_list_in_every_notation() {
    let these = |text: &str| from_file(&format!("engines = 2\ncpus = {text}")).unwrap().config.cpus;
    assert_eq!(these("[1, 0]"), Cpus::These(vec![1, 0]));
    assert_eq!(these("\"1,0\""), Cpus::These(vec![1, 0]));
    assert_eq!(these("\"auto\""), Cpus::Auto);
    assert_eq!(these("\"\""), Cpus::Any);
    let one = from_file("cpus = 3").unwrap().config.cpus;
    assert_eq!(one, Cpus::These(vec![3]));
}

#[test]
fn permission_bits_are_octal_in_every_notation() {
    for text in ["\"0640\"", "\"640\"", "\"0o640\"", "640", "0o640"] {
        let effective = from_file(&format!("socket_mode = {text}")).unwrap();
        assert_eq!(effective.config.socket_mode, 0o640, "{text}");
    }
    assert!(message("socket_mode = 1777").contains("octal"));
    assert!(message("socket_mode = \"0689\"").contains("octal"));
}

#[test]
fn auto_and_zero_stand_for_nothing_chosen() {
    let effective =
        from_file("mtu = \"auto\"\naddress = \"auto\"\nping_port = 0\nsocket_group = \"\"").unwrap();
    assert_eq!(effective.config.mtu, None);
    assert_eq!(effective.config.address, FOUND);
    assert_eq!(effective.config.ping_port, None);
    assert_eq!(effective.config.socket_group, None);
    assert_eq!(from_file("mtu = 1500").unwrap().config.mtu, Some(1500));
}

#[test]
fn an_unknown_variable_is_a_warning_with_the_nearest_valid_one() {
    let effective = Sources::new()
        .environment([("MACHNET_UDP_PROT".to_owned(), "1".to_owned())])
        .resolve(|_| Ok(FOUND))
        .unwrap();
    assert_eq!(
        effective.warnings,
        ["the environment variable MACHNET_UDP_PROT is no setting; did you mean MACHNET_UDP_PORT?"]
    );
}

#[test]
fn every_default_passes_its_own_check_when_written_to_a_file() {
    let config = Config::default();
    let text: String = KEYS.iter().map(|key| format!("{} = {}\n", key.name, key.show(&config))).collect();
    assert_eq!(from_file(&text).unwrap().config, config);
    let config = Config {
        engines: 2,
        cpus: Cpus::These(vec![0, 1]),
        udp_ports: Some(config.udp_port..=config.udp_port + 99),
        ..config
    };
    let text: String = KEYS.iter().map(|key| format!("{} = {}\n", key.name, key.show(&config))).collect();
    assert_eq!(from_file(&text).unwrap().config, config);
}

#[test]
fn the_way_to_the_network_is_read_from_lists_and_shown_as_it_would_be_written() {
    let text = "driver = \"packet\"\ninterface = \"eth1\"\naddress = \"10.0.0.5/24\"\ngateway = \"10.0.0.1\"\n\
                routes = [\"10.9.0.0/16 via 10.0.0.2\", \"10.8.0.0/16\"]\n\
                neighbours = [\"10.0.0.7 02:00:00:00:00:01\"]\nvlan = 7\nforce = true\n";
    let config = from_file(text).unwrap().config;
    assert_eq!((config.address, config.prefix), ("10.0.0.5".parse().unwrap(), Some(24)));
    assert_eq!(config.gateway, Some(Ipv4Addr::new(10, 0, 0, 1)));
    assert_eq!(config.routes.len(), 2);
    assert_eq!(config.neighbours.len(), 1);
    assert_eq!((config.vlan, config.force, config.driver), (Some(7), true, DriverKind::Packet));
    let shown: String = KEYS.iter().map(|key| format!("{} = {}\n", key.name, key.show(&config))).collect();
    assert_eq!(from_file(&shown).unwrap().config, config);
    for (name, line) in
        [("routes", "routes = [\"10.9.0.0/16 via 10.0.0.2\", \"10.8.0.0/16\"]"), ("vlan", "vlan = 7")]
    {
        assert!(text.contains(line));
        assert_eq!(format!("{name} = {}", Key::find(name).unwrap().show(&config)), line);
    }
}

#[test]
fn what_no_interface_or_device_could_be_is_refused() {
    for (text, says) in [
        ("driver = \"tcp\"", "one of \"udp\", \"packet\", \"xdp\", \"dpdk\""),
        ("address = \"10.0.0.5/33\"", "such as \"10.0.0.5\" or \"10.0.0.5/24\""),
        ("address = \"10.0.0.255/24\"", "such as"),
        ("address = \"10.0.0.0/24\"", "such as"),
        ("address = \"10.0.0.5/0\"", "such as"),
        ("interface = \"a/b\"", "the name of a network interface"),
        ("interface = \"\"", "the name of a network interface"),
        ("interface = \"sixteenletters_x\"", "the name of a network interface"),
        ("gateway = \"0.0.0.0\"", "an IPv4 address"),
        ("routes = [\"10.9.0.1/16 via 10.0.0.2\"]", "a list of routes"),
        ("neighbours = [\"10.0.0.7 ff:ff:ff:ff:ff:ff\"]", "a list of addresses"),
        ("neighbours = [\"10.0.0.7\"]", "a list of addresses"),
        ("vlan = 4095", "from 0 to 4094"),
        ("xdp_mode = \"fast\"", "\"native\""),
        ("zero_copy = \"perhaps\"", "\"auto\", \"on\", \"off\""),
        ("pci = \"00:05.0\"", "a PCI address"),
        ("pci = \"0000.00:05:0\"", "a PCI address"),
        ("vdev = \"-l 3\"", "a device name"),
        ("dpdk_plugin = \"\"", "the path of a library"),
        ("force = 1", "true or false"),
    ] {
        let message = message(text);
        assert!(message.contains("not allowed") && message.contains(says), "{text}: {message}");
    }
    let routes = |count: u32| -> String {
        let entries: Vec<_> = (0..count).map(|n| format!("\"10.{}.{}.0/24\"", n / 256, n % 256)).collect();
        format!("routes = [{}]", entries.join(", "))
    };
    assert_eq!(from_file(&routes(256)).unwrap().config.routes.len(), 256);
    assert!(message(&routes(257)).contains("at most 256"));
    let neighbours = |count: u32| -> String {
        let one = |n| format!("\"10.1.{}.{} 02:00:00:00:00:01\"", n / 200, 1 + n % 200);
        format!("neighbours = [{}]", (0..count).map(one).collect::<Vec<_>>().join(", "))
    };
    assert_eq!(from_file(&neighbours(1_024)).unwrap().config.neighbours.len(), 1_024);
    assert!(message(&neighbours(1_025)).contains("at most 1024"));
}

#[test]
fn a_way_to_the_network_that_contradicts_itself_is_refused() {
    for (text, says) in [
        ("driver = \"dpdk\"", "needs a network card"),
        ("driver = \"dpdk\"\npci = \"0000:00:05.0\"\nvdev = \"net_null0\"", "takes one device"),
        ("driver = \"dpdk\"\nvdev = \"net_null0\"", "--address 10.0.0.5/24"),
        ("driver = \"dpdk\"\nvdev = \"net_null0\"\naddress = \"10.0.0.5\"", "--address 10.0.0.5/24"),
        ("address = \"10.0.0.5\"\ngateway = \"10.0.0.5\"", "this host itself"),
        ("address = \"10.0.0.5\"\nroutes = [\"10.9.0.0/16 via 10.0.0.5\"]", "this host itself"),
        ("address = \"10.0.0.5\"\nneighbours = [\"10.0.0.5 02:00:00:00:00:01\"]", "this host itself"),
    ] {
        let message = message(text);
        assert!(message.contains(says), "{text}: {message}");
    }
    let dpdk = "driver = \"dpdk\"\nvdev = \"net_null0\"\naddress = \"10.0.0.5/24\"";
    assert_eq!(from_file(dpdk).unwrap().config.vdev.as_deref(), Some("net_null0"));
}

#[test]
fn a_setting_that_the_driver_does_not_look_at_is_a_warning() {
    let warnings = |text: &str| from_file(text).unwrap().warnings;
    assert_eq!(
        warnings("interface = \"eth1\"\nxdp_mode = \"native\""),
        [
            "interface has no effect with driver udp; it is for packet, xdp",
            "xdp_mode has no effect with driver udp; it is for xdp"
        ]
    );
    assert!(warnings("driver = \"packet\"\ninterface = \"eth1\"\nvlan = 3").is_empty());
    assert_eq!(warnings("address = \"10.0.0.5/24\"").len(), 1);
}
