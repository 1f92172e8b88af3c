use super::*;
use crate::config::{Cpus, IdlePolicy, MAX_ENGINES, pairs_needed};
use std::net::Ipv4Addr;

const FOUND: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 8, 7));

fn from_file(text: &str) -> Result<Effective, ConfigError> {
    Sources::new().file_text(Path::new("machnet.toml"), text.to_owned()).resolve(|| Ok(FOUND))
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
        .resolve(|| Ok(FOUND))
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
    assert!(message("udp_port = true").contains("a TOML boolean"));
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
        .resolve(|| Ok(FOUND))
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
