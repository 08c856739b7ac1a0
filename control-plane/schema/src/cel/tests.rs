//! Expressions and what they are worth.

use serde_json::{Value, json};

use super::*;

fn dynamic(names: &[&str]) -> Environment {
    names.iter().fold(Environment::new(), |env, name| env.variable(*name, Type::Dyn))
}

fn eval_on(source: &str, name: &str, value: &Value) -> Result<Value, String> {
    let program = compile(source, &dynamic(&[name])).map_err(|e| e.to_string())?;
    let activation = Activation::new().value(name, value);
    let result = program.evaluate(&activation, &mut Budget::default()).map_err(|e| e.to_string())?;
    result.to_json().map_err(|e| e.to_string())
}

fn eval(source: &str) -> Result<Value, String> {
    eval_on(source, "unused", &Value::Null)
}

#[track_caller]
fn holds(source: &str) {
    assert_eq!(eval(source), Ok(json!(true)), "{source}");
}

#[track_caller]
fn fails(source: &str, message: &str) {
    assert_eq!(eval(source), Err(message.to_owned()), "{source}");
}

#[test]
fn the_standard_library_computes() {
    for source in [
        "1 + 2 * 3 == 7 && 7 / 2 == 3 && -7 % 3 == -1",
        "1.5 + 1.5 == 3.0 && dyn(1) == 1.0 && dyn(1u) == 1 && 1 < 1.5",
        "'a' + 'b' == 'ab' && b'a' + b'b' == b'ab'",
        "[1, 2] + [3] == [1, 2, 3] && [1, 2][1] == 2 && 2 in [1, 2]",
        "{'a': 1}.a == 1 && {'a': 1}['a'] == 1 && 'a' in {'a': 1} && size({'a': 1}) == 1",
        "has({'a': 1}.a) && !has({'a': 1}.b)",
        "'hello'.size() == 5 && size('hellö') == 5",
        "true || 1 / 0 == 1",
        "1 / 0 == 1 || true",
        "!(false && 1 / 0 == 1)",
        "(1 > 2 ? 'a' : 'b') == 'b'",
        "type(1) == int && type('a') == string && type([1]) == list && type(null) == null_type",
        "int('42') == 42 && string(42) == '42' && double('1.5') == 1.5 && bool('true')",
        "duration('1h30m') == duration('90m') && duration('90m').getMinutes() == 90",
        "string(duration('1.5s')) == '1.5s' && duration('1h').getHours() == 1",
        "timestamp('2024-01-02T03:04:05Z').getFullYear() == 2024",
        "timestamp('2024-01-02T03:04:05Z').getHours('-02:00') == 1",
        "timestamp('2024-01-02T03:04:05Z') + duration('1h') == timestamp('2024-01-02T04:04:05Z')",
        "timestamp('2024-01-02T03:04:05Z').getDayOfWeek() == 2",
        "'abc'.matches('^a.c$') && matches('abc', 'b')",
    ] {
        holds(source);
    }
}

#[test]
fn macros_fold() {
    for source in [
        "[1, 2, 3].all(x, x > 0) && ![1, 2].all(x, x > 1)",
        "[1, 2].exists(x, x == 2) && [1, 2, 2].exists_one(x, x == 1) && ![2, 2].exists_one(x, x == 2)",
        "[1, 2, 3].map(x, x * 2) == [2, 4, 6] && [1, 2, 3].filter(x, x > 1) == [2, 3]",
        "[1, 2, 3].map(x, x > 1, x * 10) == [20, 30]",
        "{'a': 1, 'b': 2}.all(k, k < 'c') && {'a': 1}.map(k, k) == ['a']",
        "[[1], [2, 3]].all(l, l.all(x, x > 0))",
        "[1, 0].exists(x, 1 / x == 1)",
        "[4, 5].all(i, v, i < 2 && v > 3) && [4, 5].exists(i, v, i == 1 && v == 5)",
        "{'a': 1}.all(k, v, k == 'a' && v == 1) && {'a': 1}.existsOne(k, v, v == 1)",
        "[4, 5].transformList(i, v, i + v) == [4, 6] && [4, 5].transformList(i, v, i == 1, v) == [5]",
        "{'a': 1, 'b': 2}.transformMap(k, v, v * 2) == {'a': 2, 'b': 4}",
        "{'a': 'b'}.transformMapEntry(k, v, {v: k}) == {'b': 'a'}",
        "cel.bind(x, 20, x + x) == 40",
        "[3, 1, 2].sortBy(x, -x) == [3, 2, 1]",
    ] {
        holds(source);
    }
    fails("[1, 0].all(x, 1 / x == 1)", "division by zero");
}

#[test]
fn optionals_are_there_or_not() {
    for source in [
        "optional.of(1).hasValue() && !optional.none().hasValue()",
        "{'a': 1}.?a.orValue(2) == 1 && {'a': 1}.?b.orValue(2) == 2",
        "{'a': {'b': 1}}.?a.b.orValue(0) == 1 && {'x': {'b': 1}}.?a.b.orValue(0) == 0",
        "[1, 2][?5].orValue(9) == 9 && [1, 2][?0].value() == 1",
        "{?'a': optional.of(1), ?'b': optional.none()} == {'a': 1}",
        "[?optional.of(1), ?optional.none(), 3] == [1, 3]",
        "optional.of(2).optMap(x, x * 2).value() == 4 && optional.of(2).optFlatMap(x, optional.none()).orValue(7) == 7",
        "optional.ofNonZeroValue('').orValue('x') == 'x' && optional.none().or(optional.of(3)).value() == 3",
    ] {
        holds(source);
    }
    fails("optional.none().value()", "optional.none() dereference");
}

#[test]
fn kubernetes_libraries_compute() {
    for source in [
        "'Hello World'.lowerAscii() == 'hello world' && 'a,b,c'.split(',') == ['a', 'b', 'c']",
        "'hello'.substring(1, 3) == 'el' && 'hello'.indexOf('l') == 2 && 'hello'.lastIndexOf('l') == 3",
        "'hello'.replace('l', 'L', 1) == 'heLlo' && ['a', 'b'].join('-') == 'a-b' && ' x '.trim() == 'x'",
        "'%s has %d items, %.2f%%'.format(['list', 3, 12.346]) == 'list has 3 items, 12.35%'",
        "'%s'.format([[1, 'a', true]]) == '[1, a, true]' && '%x'.format([255]) == 'ff'",
        "'abc123def456'.find('[0-9]+') == '123' && 'a1b2'.findAll('[0-9]') == ['1', '2']",
        "[1, 2, 3].isSorted() && [1, 2, 3].sum() == 6 && [3, 1].min() == 1 && [3, 1].max() == 3",
        "[1, 2, 1].indexOf(1) == 0 && [1, 2, 1].lastIndexOf(1) == 2 && [3, 1, 2].sort() == [1, 2, 3]",
        "[1, 1, 2].distinct() == [1, 2] && [1, 2, 3].slice(1, 3) == [2, 3] && [[1], [2]].flatten() == [1, 2]",
        "sets.contains([1, 2, 3], [1, 2]) && sets.equivalent([1, 2], [2, 1, 1]) && !sets.intersects([1], [2])",
        "math.greatest(1, 3, 2) == 3 && math.least([3, 1]) == 1 && math.abs(-1) == 1 && math.bitShiftLeft(1, 3) == 8",
        "quantity('1Gi').isGreaterThan(quantity('1000Mi')) && quantity('50k').add(20).sub(quantity('20')).compareTo(quantity('50000')) == 0",
        "isQuantity('1.5Ki') && !isQuantity('abc') && quantity('2').asInteger() == 2 && quantity('-1').sign() == -1",
        "ip('10.0.0.1').family() == 4 && ip('::1').isLoopback() && isIP('1.2.3.4') && !isIP('1.2.3.400')",
        "ip.isCanonical('2001:db8::abcd') && !ip.isCanonical('2001:DB8::ABCD')",
        "cidr('10.0.0.0/8').containsIP('10.1.2.3') && cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8')",
        "url('https://example.com:80/path?k=a&k=b').getHost() == 'example.com:80' && url('https://[::1]:80/').getHostname() == '::1'",
        "url('https://example.com/a b'.replace(' ', '')).getEscapedPath() == '/ab' && url('https://e.com/?k=a&k=b').getQuery()['k'] == ['a', 'b']",
        "isURL('https://example.com') && !isURL('../relative') && isURL('/absolute')",
        "semver('1.2.3').isLessThan(semver('1.10.0')) && isSemver('v1.0', true) && !isSemver('v1.0') && semver('1.2.3').minor() == 2",
        "!format.dns1123Label().validate('my-label').hasValue() && format.dns1123Label().validate('My_Label').hasValue()",
        "format.named('uuid').value().validate('not').hasValue() && !format.named('nothing').hasValue()",
        "jsonpatch.escapeKey('k8s.io/my~label') == 'k8s.io~1my~0label'",
        "base64.decode('aGk=') == b'hi' && base64.encode(b'hi') == 'aGk='",
        "strings.quote('a\"b') == '\"a\\\\\"b\"'",
    ] {
        holds(source);
    }
}

#[test]
fn evaluation_errors_are_cel_gos() {
    fails("{'a': 1}.b", "no such key: b");
    fails("[1][3] == 1", "index out of bounds: 3");
    fails("1 % 0 == 1", "modulus by zero");
    fails("9223372036854775807 + 1 == 0", "integer overflow");
    fails("dyn(1) + dyn('a') == 2", "no such overload");
    assert_eq!(eval_on("object.spec.x > 1", "object", &json!({"spec": {}})), Err("no such key: x".into()));
}

#[test]
fn json_is_read_in_place() {
    let object = json!({"spec": {"replicas": 3, "list": [{"name": "a", "n": 1}, {"name": "b", "n": 2}], "f": 1.5}});
    for source in [
        "object.spec.replicas == 3 && object.spec.f > 1.0",
        "object.spec.list.filter(i, i.n > 1).map(i, i.name) == ['b']",
        "has(object.spec.list) && !has(object.status) && size(object.spec) == 3",
        "object.spec.list.exists(i, i == {'name': dyn('a'), 'n': dyn(1)})",
        "object['spec']['replicas'] == 3 && 'replicas' in object.spec",
        "object == object && object.spec.list[0].name + object.spec.list[1].name == 'ab'",
    ] {
        assert_eq!(eval_on(source, "object", &object), Ok(json!(true)), "{source}");
    }
    assert_eq!(eval_on("object.spec.list[0]", "object", &object), Ok(json!({"name": "a", "n": 1})));
}

#[test]
fn compile_errors_are_cel_gos() {
    let env = Environment::new().variable("self", Type::object("selfType", [("x".into(), Type::Int)]));
    let issues = |source: &str| compile(source, &env).expect_err(source).to_string();
    assert_eq!(
        issues("foo.bar"),
        "compilation failed: ERROR: <input>:1:1: undeclared reference to 'foo' (in container '')\n | foo.bar\n | ^"
    );
    assert_eq!(
        issues("self.y > 1"),
        "compilation failed: ERROR: <input>:1:5: undefined field 'y'\n | self.y > 1\n | ....^"
    );
    assert_eq!(
        issues("self.x > 'a'"),
        "compilation failed: ERROR: <input>:1:8: found no matching overload for '_>_' applied to '(int, string)'\n | self.x > 'a'\n | .......^"
    );
    assert!(issues("self.x.y").contains("type 'int' does not support field selection"));
    assert!(
        issues("self.x.startsWith('a')")
            .contains("found no matching overload for 'startsWith' applied to 'int.(string)'")
    );
    assert!(issues("nothing(1)").contains("undeclared reference to 'nothing' (in container '')"));
    assert!(
        issues("self.x +")
            .starts_with("compilation failed: ERROR: <input>:1:9: Syntax error: mismatched input '<EOF>' expecting")
    );
    assert!(issues("duration('abc') == duration('1s')").contains("invalid duration argument"));
    assert!(issues("'a'.matches('(')").contains("invalid matches argument"));
    assert!(issues("[1, 'a'] == []").contains("expected type 'int' but found 'string'"));
    assert_eq!(compile("self.x + 1", &env).expect("compiles").result_type(), &Type::Int);
    assert_eq!(compile("[self.x].map(i, string(i))", &env).expect("compiles").result_type(), &Type::list(Type::String));
}

#[test]
fn schemas_are_types() {
    let schema = json!({"type": "object", "properties": {
        "namespace": {"type": "string"}, "foo-bar": {"type": "integer"}, "at": {"type": "string", "format": "date-time"},
        "any": {"x-kubernetes-int-or-string": true}, "size": {"type": "number"},
        "map": {"type": "object", "additionalProperties": {"type": "integer"}},
        "list": {"type": "array", "items": {"type": "object", "properties": {"d": {"type": "string", "format": "duration"}}}},
        "free": {"x-kubernetes-preserve-unknown-fields": true},
    }});
    let ty = Type::from_schema(&schema, true).expect("a type");
    let env = Environment::new().variable("self", ty);
    let object = json!({"kind": "X", "metadata": {"name": "n"}, "namespace": "a", "foo-bar": 1, "at": "2024-01-01T00:00:00Z",
        "any": "50%", "size": 3, "map": {"k-1": 2}, "list": [{"d": "1h"}], "free": {"a": 1}});
    for source in [
        "self.__namespace__ == 'a' && self.foo__dash__bar == 1",
        "self.at < timestamp('2025-01-01T00:00:00Z') && self.list.all(i, i.d <= duration('60m'))",
        "self.size / 2.0 == 1.5 && self.map['k-1'] == 2 && self.any == '50%' && type(self.any) == string",
        "self.metadata.name == 'n' && self.kind == 'X'",
        "has(self.foo__dash__bar)",
    ] {
        let program = compile(source, &env).unwrap_or_else(|e| panic!("{source}: {e}"));
        let activation = Activation::new().value("self", &object);
        assert_eq!(program.evaluate_bool(&activation, &mut Budget::default()), Ok(true), "{source}");
    }
    assert!(compile("self.free.a == 1", &env).is_err(), "a field without a type cannot be reached");
    assert!(compile("self.at == 'x'", &env).is_err());
}

#[test]
fn work_is_bounded() {
    let list = json!((0..1000).collect::<Vec<_>>());
    let program = compile("l.all(a, l.all(b, l.all(c, a + b + c >= 0)))", &dynamic(&["l"])).expect("compiles");
    let activation = Activation::new().value("l", &list);
    let mut budget = Budget::default();
    assert_eq!(program.evaluate_bool(&activation, &mut budget), Err(EvalError::CostLimit));
    assert!(budget.remaining() <= REQUEST_BUDGET - PER_CALL_LIMIT && !budget.exhausted());
    for _ in 0..10 {
        assert_eq!(program.evaluate_bool(&activation, &mut budget), Err(EvalError::CostLimit));
    }
    assert!(budget.exhausted());
}

#[test]
fn depth_is_bounded() {
    for source in [
        format!("{}1{}", "(".repeat(5000), ")".repeat(5000)),
        vec!["1"; 20_000].join(" + "),
        format!("a{}", ".b".repeat(20_000)),
        format!("a{}", "[0]".repeat(20_000)),
        "a ? b : ".repeat(5000) + "c",
        "a && b ? c : ".repeat(5000) + "c",
        format!("{}1{}", "[".repeat(5000), "]".repeat(5000)),
        "!".repeat(20_000) + "true",
        "-".repeat(20_000) + "1",
        format!("{}x{}", "f(".repeat(5000), ")".repeat(5000)),
    ] {
        let error = compile(&source, &dynamic(&["a"])).expect_err("too deep").to_string();
        assert!(error.contains("expression recursion limit exceeded"), "{}", &error[..200.min(error.len())]);
    }
    // Long, and flat.
    holds(&vec!["true"; 500].join(" && "));
    let deep = [
        format!("{}1{} == 1", "(".repeat(120), ")".repeat(120)),
        format!("{}true{}", "[".repeat(120), "].all(x, true)".repeat(30)),
        format!("{} == 240", vec!["1"; 240].join(" + ")),
        format!("{}3", "false ? 1 : ".repeat(240)) + " == 3",
    ];
    let small = std::thread::Builder::new().stack_size(1 << 20);
    let run = move || {
        for source in &deep {
            let _ = eval(source);
        }
    };
    small.spawn(run).expect("a thread").join().expect("no overflow");
}

#[test]
fn variables_are_composed_lazily() {
    let env = dynamic(&["object"]);
    let double = compile("object.n * 2", &env).expect("compiles");
    let wrong = compile("object.missing", &env).expect("compiles");
    let composed = vec![("double".to_owned(), double), ("wrong".to_owned(), wrong)];
    let variables = Type::object("variables", [("double".into(), Type::Dyn), ("wrong".into(), Type::Dyn)]);
    let env = env.variable("variables", variables);
    let object = json!({"n": 4});
    let activation = Activation::new().value("object", &object).composed(&composed);
    let run = |source: &str| {
        compile(source, &env)
            .expect("compiles")
            .evaluate_bool(&activation_of(&object, &composed), &mut Budget::default())
    };
    assert_eq!(run("variables.double == 8 && variables.double > object.n"), Ok(true));
    assert_eq!(run("variables.wrong == 1"), Err(EvalError::new("no such key: missing")));
    assert!(compile("variables.other == 1", &env).is_err());
    drop(activation);
}

fn activation_of<'a>(object: &'a Value, composed: &'a [(String, Program)]) -> Activation<'a> {
    Activation::new().value("object", object).composed(composed)
}

#[test]
fn objects_are_made() {
    let env = dynamic(&["object"]).structure("Object").structure("JSONPatch");
    let program = compile(
        "Object{spec: Object.spec{replicas: object.n + 1, ?x: object.?missing, list: [Object.spec.list{name: 'a'}]}}",
        &env,
    );
    let object = json!({"n": 1});
    let program = program.expect("compiles");
    let value = program.evaluate(&Activation::new().value("object", &object), &mut Budget::default()).expect("a value");
    assert_eq!(value.to_json(), Ok(json!({"spec": {"replicas": 2, "list": [{"name": "a"}]}})));
    assert!(compile("Other{a: 1}", &env).is_err());
}

struct OnlyGet;

impl Authorizer for OnlyGet {
    fn authorize(&self, request: &AuthorizationRequest) -> Decision {
        let allowed =
            request.verb == "get" && (request.resource == "pods" || request.path.as_deref() == Some("/healthz"));
        Decision { allowed, reason: format!("{}/{}", request.namespace, request.name), error: None }
    }
}

#[test]
fn the_authorizer_is_asked() {
    let env = Environment::new().authorizer();
    for source in [
        "authorizer.group('').resource('pods').namespace('a').name('b').check('get').allowed()",
        "!authorizer.group('').resource('pods').check('delete').allowed()",
        "authorizer.path('/healthz').check('get').allowed()",
        "authorizer.requestResource.check('get').reason() == 'default/web'",
        "authorizer.serviceAccount('ns', 'sa').group('').resource('pods').check('get').allowed()",
    ] {
        let program = compile(source, &env).unwrap_or_else(|e| panic!("{source}: {e}"));
        let request = AuthorizationRequest {
            resource: "pods".into(),
            namespace: "default".into(),
            name: "web".into(),
            ..AuthorizationRequest::default()
        };
        let activation = Activation::new().authorizer(&OnlyGet, request);
        assert_eq!(program.evaluate_bool(&activation, &mut Budget::default()), Ok(true), "{source}");
    }
}

proptest::proptest! {
    /// Whatever the text, there is an answer.
    #[test]
    fn no_text_breaks_it(source in "[a-z0-9 .,()\\[\\]{}+*/?:!&|<>='\"%-]{0,60}") {
        let _ = eval(&source);
    }
}
