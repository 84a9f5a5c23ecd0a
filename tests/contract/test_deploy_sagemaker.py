"""deploy/sagemaker: a page of YAML makes an endpoint of either image."""

import re
from pathlib import Path

import boto3
import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "deploy" / "sagemaker"
TEMPLATE = (FOLDER / "endpoint.yaml").read_text()
KEY = "sagemaker/model-1.tar.gz"
OURS = "123456789012.dkr.ecr.us-east-1.amazonaws.com/gameserver-autopilot-service:1"
TENSORFLOW = "763104351884.dkr.ecr.us-east-1.amazonaws.com/tensorflow-inference:2.19.0-cpu"


@pytest.fixture
def client(moto):
    """Makes clients of AWS's services."""
    made = []

    def client(name):
        made.append(boto3.client(name, region_name="us-east-1"))
        return made[-1]

    yield client
    for each in made:
        each.close()


@pytest.fixture
def deployed(client):
    """Makes the stack; returns the model that the endpoint serves."""

    def deploy(image):
        given = {"Image": image, "ModelBucket": "my-autopilot", "ModelKey": KEY}
        client("cloudformation").create_stack(
            StackName="autopilot-endpoint",
            TemplateBody=TEMPLATE,
            Capabilities=["CAPABILITY_IAM"],
            Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in given.items()],
        )
        sagemaker = client("sagemaker")
        (listed,) = sagemaker.list_endpoints()["Endpoints"]
        endpoint = sagemaker.describe_endpoint(EndpointName=listed["EndpointName"])
        configuration = sagemaker.describe_endpoint_config(
            EndpointConfigName=endpoint["EndpointConfigName"]
        )
        (variant,) = configuration["ProductionVariants"]
        return sagemaker.describe_model(ModelName=variant["ModelName"])

    return deploy


@pytest.mark.parametrize("image", [OURS, TENSORFLOW])
def test_an_endpoint_of_either_image(deployed, image):
    container = deployed(image)["PrimaryContainer"]
    assert container["Image"] == image
    assert container["ModelDataUrl"] == f"s3://my-autopilot/{KEY}"
    opened = {"AUTOPILOT_OPEN_ACCESS": "1", "AUTOPILOT_ALLOWED_HOSTS": "*"}
    assert container["Environment"] == opened, "SageMaker sends no token"


def test_its_role_may_read_that_archive_and_nothing_else_in_s3(deployed, client):
    role = deployed(OURS)["ExecutionRoleArn"].rpartition("/")[2]
    iam = client("iam")
    trusted = iam.get_role(RoleName=role)["Role"]["AssumeRolePolicyDocument"]["Statement"]
    assert [each["Principal"] for each in trusted] == [{"Service": "sagemaker.amazonaws.com"}]
    # Moto answers with what Python prints of it, which YAML reads too.
    policy = iam.get_role_policy(RoleName=role, PolicyName="autopilot")["PolicyDocument"]
    statements = yaml.safe_load(policy)["Statement"]
    in_s3 = [each for each in statements if "s3:" in str(each["Action"])]
    assert [(each["Action"], each["Resource"]) for each in in_s3] == [
        ("s3:GetObject", f"arn:aws:s3:::my-autopilot/{KEY}")
    ]


def test_the_readme_gives_what_the_template_takes(client):
    readme = (FOLDER / "README.md").read_text()
    (command,) = re.findall(r"aws cloudformation deploy(?:.*\\\n)*.*", readme)
    _, given = command.split("--parameter-overrides")
    named = set(re.findall(r"(\w+)=", given))
    summary = client("cloudformation").get_template_summary(TemplateBody=TEMPLATE)
    wanted = {p["ParameterKey"] for p in summary["Parameters"] if "DefaultValue" not in p}
    assert named == wanted
