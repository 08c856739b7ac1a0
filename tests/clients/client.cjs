// The official JavaScript client: typed calls, patches, watches, an informer.

const assert = require('node:assert');
const { pathToFileURL } = require('node:url');

const namespace = 'default';
let k8s;
let config;
let core;
let apps;

// The client is an ES module, which Debian's Node.js cannot `require`; and `import` does not look where NODE_PATH says.
async function load() {
    k8s = await import(pathToFileURL(require.resolve('@kubernetes/client-node')));
    config = new k8s.KubeConfig();
    config.loadFromDefault();
    core = config.makeApiClient(k8s.CoreV1Api);
    apps = config.makeApiClient(k8s.AppsV1Api);
}

async function refused(code, promise) {
    try {
        await promise;
    } catch (error) {
        assert.strictEqual(error.code, code, String(error));
        return error;
    }
    assert.fail('it should have been refused');
}

async function objects() {
    const body = { metadata: { name: 'js' }, data: { a: '1' } };
    const made = await core.createNamespacedConfigMap({ namespace, body });
    assert.deepStrictEqual(made.data, { a: '1' });
    assert.ok(made.metadata.creationTimestamp instanceof Date);
    await refused(409, core.createNamespacedConfigMap({ namespace, body }));
    made.data.b = '2';
    const replaced = await core.replaceNamespacedConfigMap({ name: 'js', namespace, body: made });
    assert.strictEqual(replaced.data.b, '2');
    const patch = [{ op: 'replace', path: '/data/a', value: '3' }];
    const patched = await core.patchNamespacedConfigMap({ name: 'js', namespace, body: patch });
    assert.strictEqual(patched.data.a, '3');
    const merged = await core.patchNamespacedConfigMap(
        { name: 'js', namespace, body: { data: { a: null } } },
        k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.MergePatch),
    );
    assert.deepStrictEqual(merged.data, { b: '2' });
    const list = await core.listNamespacedConfigMap({ namespace, fieldSelector: 'metadata.name=js' });
    assert.strictEqual(list.items.length, 1);
    await core.deleteNamespacedConfigMap({ name: 'js', namespace });
    await refused(404, core.readNamespacedConfigMap({ name: 'js', namespace }));
}

async function applies() {
    const client = k8s.KubernetesObjectApi.makeApiClient(config);
    const object = (a) => ({
        apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'ssa', namespace }, data: { a },
    });
    const apply = (a, manager, force) =>
        client.patch(object(a), undefined, undefined, manager, force, k8s.PatchStrategy.ServerSideApply);
    const made = await apply('1', 'one');
    assert.strictEqual(made.metadata.managedFields[0].operation, 'Apply');
    const conflict = await refused(409, apply('2', 'two'));
    assert.ok(String(conflict.body).includes('.data.a') || JSON.stringify(conflict.body).includes('.data.a'));
    assert.strictEqual((await apply('2', 'two', true)).data.a, '2');
    await client.delete(object('2'));
}

async function deployments() {
    const template = {
        metadata: { labels: { app: 'js' } }, spec: { containers: [{ name: 'c', image: 'nginx' }] },
    };
    const body = {
        metadata: { name: 'js' }, spec: { replicas: 1, selector: { matchLabels: { app: 'js' } }, template },
    };
    const made = await apps.createNamespacedDeployment({ namespace, body });
    assert.strictEqual(made.spec.strategy.type, 'RollingUpdate');
    const scale = await apps.readNamespacedDeploymentScale({ name: 'js', namespace });
    scale.spec.replicas = 0;
    // Controllers write to the deployment, too.
    delete scale.metadata.resourceVersion;
    await apps.replaceNamespacedDeploymentScale({ name: 'js', namespace, body: scale });
    assert.strictEqual((await apps.readNamespacedDeployment({ name: 'js', namespace })).spec.replicas, 0);
    await apps.deleteNamespacedDeployment({ name: 'js', namespace });
}

function within(what, promise) {
    const late = new Promise((_, reject) => {
        setTimeout(() => reject(new Error(`not in time: ${what}`)), 30000).unref();
    });
    return Promise.race([promise, late]);
}

async function informer() {
    const path = `/api/v1/namespaces/${namespace}/secrets`;
    const list = () => core.listNamespacedSecret({ namespace });
    const made = k8s.makeInformer(config, path, list);
    const seen = [];
    const deleted = new Promise((resolve, reject) => {
        made.on('add', (object) => seen.push(`add ${object.metadata.name}`));
        made.on('update', (object) => seen.push(`update ${object.metadata.name}`));
        made.on('delete', (object) => resolve(object.metadata.name));
        made.on('error', reject);
    });
    await made.start();
    await core.createNamespacedSecret({ namespace, body: { metadata: { name: 'js' }, stringData: { a: 'b' } } });
    await core.patchNamespacedSecret({
        name: 'js', namespace, body: [{ op: 'add', path: '/metadata/labels', value: { x: 'y' } }],
    });
    await core.deleteNamespacedSecret({ name: 'js', namespace });
    assert.strictEqual(await within('the deletion', deleted), 'js');
    assert.deepStrictEqual(seen.filter((line) => line.endsWith(' js')), ['add js', 'update js']);
    await made.stop();
}

(async () => {
    await load();
    for (const test of [objects, applies, deployments, informer]) {
        console.log('case', test.name);
        await test();
    }
    console.log('ok');
    process.exit(0);
})().catch((error) => {
    console.error(error);
    process.exit(1);
});
